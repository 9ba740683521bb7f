use super::super::probe::{BlockLoss, Probe, SourceLoss, Zeros};
use super::*;
use crate::engine::by_position::Bucket;

fn line(step: u64, probed: bool) -> Line {
    let loss = 3.0 / step as f64;
    let bucket = |from, to| Bucket {
        from,
        to,
        loss,
        tokens: 9,
    };
    let zeros = |layer, matrix: &str| Zeros {
        layer,
        matrix: matrix.into(),
        share: 0.3125,
    };
    let probe = Probe {
        by_position: vec![bucket(0, 16), bucket(16, 32)],
        by_source: vec![SourceLoss {
            name: "a<b.bin".into(),
            loss,
        }],
        inner_loss: vec![BlockLoss {
            layer: 1,
            before: 8.0,
            after: 6.0,
        }],
        zero_weights: vec![zeros(0, "ffn.up"), zeros(1, "mixer.q")],
    };
    Line {
        step,
        loss,
        val_loss: probed.then_some(loss),
        tokens: 1000,
        probe: probed.then_some(probe),
        ..Line::default()
    }
}

fn html(lines: &[Line]) -> String {
    let source = SourceInfo {
        name: "a<b.bin".into(),
        share: 1.0,
        documents: 12,
        rows: 40,
        train_tokens: 3000,
        held_out_tokens: 300,
        sample: 1,
    };
    let report = Report {
        config: &Config::default(),
        sources: &[source],
        epochs: vec![2.5],
        parameters: 250_000,
        lines,
    };
    report.html("runs/one").unwrap()
}

#[test]
fn a_page_is_complete_in_itself_and_shows_every_value() {
    let page = html(&[line(1, true), line(2, false), line(3, true)]);
    for heading in [
        "Loss",
        "Loss by position",
        "Inner loss",
        "Zero weights",
        "Loss by source",
        "Learning rate",
        "Gradient norm",
        "Speed",
        "Inner loss by block",
        "Zero weights by matrix",
        "Data",
    ] {
        assert!(page.contains(&format!("<h2>{heading}</h2>")), "{heading}");
    }
    for value in [
        "1.0000",
        "31.2%",
        "-25.0%",
        "250k",
        "3000",
        "2.5",
        "d_model = 128",
        "a&lt;b.bin",
    ] {
        assert!(page.contains(value), "{value}");
    }
    assert_eq!(page.matches("<svg").count(), 8);
    assert!(!page.contains("a<b"), "names are escaped");
    for outside in ["src=", "href=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn a_run_that_has_measured_nothing_yet_has_a_page_too() {
    let page = html(&[line(1, false)]);
    assert!(page.contains("<h2>Loss</h2>") && !page.contains("Inner loss"));
    assert!(html(&[]).contains("<h2>Data</h2>"));
}

#[test]
fn durations_are_read_at_a_glance() {
    assert_eq!(duration(7.4), "7 s");
    assert_eq!(duration(83.0), "1:23 min");
    assert_eq!(duration(7265.0), "2:01 h");
}
