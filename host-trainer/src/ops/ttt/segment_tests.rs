//! Rows read segment by segment: the same values as whole rows, and gradients that stop at the segment's start.

use std::sync::Arc;

use candle_core::{Tensor, Var};

use super::tests::{operands, settings, variables, with_learned};
use super::*;

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn segment(
    s: &Settings,
    v: &[Var],
    (start, tokens): (usize, usize),
    carried: Option<&FastState>,
) -> (Tensor, FastState) {
    let cut = |t: &Var| t.narrow(1, start, tokens).unwrap();
    let (qkv, lr) = (cut(&v[0]), cut(&v[1]));
    with_learned(s, v, |l| ttt_segment(&qkv, &lr, l, s, carried).unwrap())
}

#[test]
fn segments_give_the_bits_of_whole_rows_and_leave_the_same_fast_weights() {
    for inner in [Inner::Linear, Inner::Mlp] {
        let s = settings(inner, 2, 8, 4);
        let vars = variables(&operands(&s, 2, 13, 3), &s, 2, 13);
        let whole = with_learned(&s, &vars, |l| ttt(&vars[0], &vars[1], l, &s).unwrap());
        let (_, left) = segment(&s, &vars, (0, 12), None);
        let (a, carried) = segment(&s, &vars, (0, 8), None);
        let (b, left_in_two) = segment(&s, &vars, (8, 5), Some(&carried));
        assert_eq!(flat(&Tensor::cat(&[a, b], 1).unwrap()), flat(&whole));
        assert_eq!(
            left_in_two.0, left.0,
            "the open mini-batch has changed nothing"
        );
        assert_ne!(carried.0, left.0);
    }
}

/// `a + (w - a)` rounds to another bit with another anchor `a`.
fn agree(got: &[f32], expected: &[f32], what: &str) {
    let largest = expected.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    for (g, e) in got.iter().zip(expected) {
        assert!((g - e).abs() <= 1e-5 * largest, "{what}: {g} against {e}");
    }
}

#[test]
fn a_carried_state_is_a_constant_start() {
    for inner in [Inner::Linear, Inner::Mlp] {
        let s = Settings {
            anchor_decay: false,
            ..settings(inner, 2, 8, 4)
        };
        let vars = variables(&operands(&s, 1, 11, 3), &s, 1, 11);
        let other = variables(&operands(&s, 1, 11, 9), &s, 1, 11);
        let starts = 2 * s.layers().len();
        // The other start as a state: head by head.
        let learned = with_learned(&s, &other, |l| flat(&super::flat(l).unwrap()));
        let carried = FastState(Arc::new(Values::new(&learned, &s).unwrap().starts));
        let started: Vec<Var> = vars[..2]
            .iter()
            .chain(&other[2..2 + starts])
            .chain(&vars[2 + starts..])
            .cloned()
            .collect();
        let expected = with_learned(&s, &started, |l| {
            ttt(&started[0], &started[1], l, &s).unwrap()
        });
        let (got, _) = segment(&s, &vars, (0, 11), Some(&carried));
        agree(&flat(&got), &flat(&expected), "output");
        let [expected, got] = [expected, got].map(|out| out.sqr().unwrap().backward().unwrap());
        for (i, (var, other)) in vars.iter().zip(&started).enumerate() {
            let got = flat(got.get(var).unwrap());
            match i.checked_sub(2) {
                Some(start) if start < starts => assert!(got.iter().all(|g| *g == 0.0)),
                _ => agree(
                    &got,
                    &flat(expected.get(other).unwrap()),
                    &format!("operand {i}"),
                ),
            }
        }
    }
}

/// The anchor is the learned start in every segment: its gradient and the decay's come from later ones too.
#[test]
fn gradients_of_anchor_and_decay_are_those_of_central_differences() {
    let s = settings(Inner::Linear, 1, 8, 4);
    let vars = variables(&operands(&s, 1, 19, 3), &s, 1, 19);
    let (_, carried) = segment(&s, &vars, (0, 8), None);
    let loss = || {
        segment(&s, &vars, (8, 11), Some(&carried))
            .0
            .sqr()
            .unwrap()
            .sum_all()
            .unwrap()
    };
    let grads = loss().backward().unwrap();
    let decay = vars.len() - 2;
    for (var, element) in [(decay, 0), (2, 5), (2, 40), (3, 2)] {
        let (var, values) = (&vars[var], flat(&vars[var]));
        // A step on the f16 grid of these values.
        let step = 1.0 / 64.0;
        let at = |shift: f32| {
            let mut moved = values.clone();
            moved[element] += shift;
            var.set(&Tensor::from_vec(moved, var.shape(), var.device()).unwrap())
                .unwrap();
            f64::from(loss().to_scalar::<f32>().unwrap())
        };
        let numeric = (at(step) - at(-step)) / (2.0 * f64::from(step));
        at(0.0);
        let exact = f64::from(flat(grads.get(var).unwrap())[element]);
        assert!(
            (numeric - exact).abs() < 0.02 * exact.abs().max(0.1),
            "{element}: {numeric} against {exact}"
        );
    }
}
