//! Blobs written in a stream: what is written is what the core reads, and what is wrong has a name.

use bitttt_core::Model;
use bitttt_core::format::{Config, DType, LayerConfig};
use bitttt_export::random::{FULL_LAYER, small_config};
use bitttt_export::stream::Scale;
use bitttt_export::{AlignedCopy, BlobWriter, ExportError, Outline, synth};
use std::io::Cursor;
use std::path::Path;

struct Shape {
    config: Config,
    layers: Vec<LayerConfig>,
}

impl Shape {
    fn small() -> Self {
        let config = small_config();
        let layers = vec![FULL_LAYER; config.n_layers as usize];
        Self { config, layers }
    }

    fn outline(&self) -> Outline<'_> {
        Outline {
            config: &self.config,
            layers: &self.layers,
            tokenizer: None,
            metadata: "{}",
        }
    }

    fn writer(&self) -> BlobWriter<Cursor<Vec<u8>>> {
        let out = Cursor::new(Vec::new());
        BlobWriter::new(out, Path::new("x.bttt"), &self.outline()).unwrap()
    }

    fn random(&self, packed: DType, seed: u64) -> Vec<u8> {
        let mut writer = self.writer();
        synth::fill(&mut writer, packed, seed, |_| {}).unwrap();
        writer.finish().unwrap().into_inner()
    }
}

#[test]
fn random_models_are_accepted_and_repeat_by_their_seed() {
    let shape = Shape::small();
    for packed in [DType::T2, DType::T5] {
        let blob = shape.random(packed, 1);
        let aligned = AlignedCopy::of(&blob);
        Model::from_bytes(aligned.bytes())
            .unwrap()
            .verify()
            .unwrap();
        assert!(shape.random(packed, 1) == blob);
        assert!(shape.random(packed, 2) != blob);
    }
}

#[test]
fn a_third_of_random_ternary_weights_is_zero() {
    let shape = Shape::small();
    let blob = AlignedCopy::of(&shape.random(DType::T2, 1));
    let model = Model::from_bytes(blob.bytes()).unwrap();
    let mut counts = [0u32; 4];
    for entry in model.tensors().filter(|entry| entry.dtype == DType::T2) {
        for byte in model.data(&entry) {
            (0..4).for_each(|p| counts[usize::from(byte >> (2 * p) & 3)] += 1);
        }
    }
    let total: u32 = counts.iter().sum();
    assert_eq!(counts[3], 0);
    for count in &counts[..3] {
        let share = f64::from(*count) / f64::from(total);
        assert!((0.31..0.36).contains(&share), "{counts:?}");
    }
}

#[test]
fn progress_adds_up_to_the_drawn_bytes() {
    let shape = Shape::small();
    let mut writer = shape.writer();
    let mut done = 0;
    synth::fill(&mut writer, DType::T2, 1, |bytes| done += bytes).unwrap();
    assert_eq!(done, synth::drawn_bytes(&shape.outline(), DType::T2));
    let bytes = writer.finish().unwrap().into_inner().len() as u64;
    assert!((bytes / 2..bytes).contains(&done), "{done} of {bytes}");
}

#[test]
fn a_tensor_of_the_wrong_size_is_named() {
    let shape = Shape::small();
    let mut writer = shape.writer();
    let place = writer.begin(DType::I8).unwrap();
    assert_eq!(
        (place.name(), place.rows, place.cols),
        ("embed".into(), 257, 48)
    );
    writer.elements(&[0; 100]).unwrap();
    let error = writer.end(&Scale::Rows(vec![1.0; 257])).unwrap_err();
    assert!(
        matches!(
            error,
            ExportError::Bytes {
                found: 100,
                expected: 12336,
                ..
            }
        ),
        "{error}"
    );

    let mut writer = shape.writer();
    writer.begin(DType::I8).unwrap();
    writer.elements(&[0; 257 * 48]).unwrap();
    let error = writer.end(&Scale::Rows(vec![1.0; 3])).unwrap_err();
    assert!(error.to_string().contains("embed (row scales)"), "{error}");
}

#[test]
fn invalid_elements_and_scales_are_named() {
    let shape = Shape::small();
    let mut writer = shape.writer();
    writer.begin(DType::I8).unwrap();
    let error = writer.elements(&[1, 0x80]).unwrap_err();
    assert!(matches!(error, ExportError::Value(name) if name == "embed"));
    writer.elements(&[0; 257 * 48]).unwrap();
    let error = writer.end(&Scale::Rows(vec![f32::NAN; 257])).unwrap_err();
    assert!(matches!(error, ExportError::Value(name) if name == "embed (scale)"));
}

#[test]
fn tensors_out_of_turn_and_missing_ones_are_refused() {
    let shape = Shape::small();
    let mut writer = shape.writer();
    assert!(matches!(
        writer.end(&Scale::Tensor(1.0)),
        Err(ExportError::Order(None))
    ));
    writer.begin(DType::I8).unwrap();
    assert!(
        matches!(writer.begin(DType::I8), Err(ExportError::Order(Some(name))) if name == "embed")
    );
    let error = shape.writer().finish().unwrap_err();
    assert!(matches!(error, ExportError::MissingTensor(name) if name == "embed"));
}

#[test]
fn an_impossible_shape_is_refused_before_anything_is_written() {
    let mut shape = Shape::small();
    shape.config.n_heads = 5;
    let out = Cursor::new(Vec::new());
    let error = BlobWriter::new(out, Path::new("x.bttt"), &shape.outline()).unwrap_err();
    assert!(error.to_string().contains("n_heads"), "{error}");
    let mut shape = Shape::small();
    shape.layers[1].window = 8;
    let out = Cursor::new(Vec::new());
    let error = BlobWriter::new(out, Path::new("x.bttt"), &shape.outline()).unwrap_err();
    assert!(
        error.to_string().contains("layer 1: field `window`"),
        "{error}"
    );
}

#[test]
fn a_file_gets_its_name_only_when_it_was_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.bttt");
    let shape = Shape::small();
    let save = |check: Result<(), ExportError>| {
        shape.outline().save(
            &path,
            |writer| synth::fill(writer, DType::T5, 1, |_| {}),
            |_| check,
        )
    };
    assert!(save(Err(ExportError::Order(None))).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    save(Ok(())).unwrap();
    assert!(std::fs::read(&path).unwrap() == shape.random(DType::T5, 1));
}
