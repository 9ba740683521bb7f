//! Any bytes as a file to import: what is taken becomes a valid blob, the rest is refused in one line.

use bitttt_core::Model;
use bitttt_export::import::{Foreign, ImportError, Matrices, Options};
use bitttt_export::import::{bit_llama, gguf as gguf_file, hf_bitnet, hf_llama, ttt_lm};
use bitttt_export::{AlignedCopy, ExportError};
use std::path::Path;

/// The bytes as a GGUF file; the last one chooses options.
pub fn gguf(data: &[u8]) {
    let Some((&choice, file)) = data.split_last() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, file).expect("room for it");
    let options = options(choice);
    check(gguf_file::open(&path, &options), folder.path(), &options);
}

/// A folder: the first byte chooses its format and options, two more say how long its `config.json` is; the rest is its
/// `model.safetensors`.
pub fn safetensors(data: &[u8]) {
    let Some((&[choice, low, high], data)) = data.split_first_chunk() else {
        return;
    };
    let end = usize::from(u16::from_le_bytes([low, high])).min(data.len());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write =
        |name, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("room for it");
    write("config.json", &data[..end]);
    write("model.safetensors", &data[end..]);
    let options = options(choice / 4);
    let open = [
        hf_bitnet::open,
        hf_llama::open,
        ttt_lm::open,
        bit_llama::open,
    ];
    let model = open[usize::from(choice % 4)](folder.path(), &options);
    check(model, folder.path(), &options);
}

fn options(choice: u8) -> Options {
    let matrices = [Matrices::AsTheyAre, Matrices::Ternarise, Matrices::Float];
    Options {
        needs_tokenizer: choice & 4 != 0,
        matrices: matrices[usize::from(choice % 3)],
        ..Options::default()
    }
}

/// Any error, as the two kinds are all that may come.
#[derive(Debug)]
struct Refused(String);

impl From<ImportError> for Refused {
    fn from(error: ImportError) -> Self {
        Self(error.to_string())
    }
}

impl From<ExportError> for Refused {
    fn from(error: ExportError) -> Self {
        Self(error.to_string())
    }
}

fn check(model: Result<Foreign<'static>, ImportError>, folder: &Path, options: &Options) {
    let out = folder.join("out.bttt");
    let saved = model
        .map_err(Refused::from)
        .and_then(|model| model.save::<_, Refused>(&out, options, |_| {}, |_| Ok(())));
    match saved {
        Ok(_) => {
            let blob = AlignedCopy::of(&std::fs::read(&out).expect("it was written"));
            let model = Model::from_bytes(blob.bytes()).expect("what is imported loads");
            model.verify().expect("what is imported is valid");
        }
        Err(Refused(line)) => {
            assert!(!line.is_empty() && !line.contains('\n'), "{line}");
            assert!(!out.exists());
        }
    }
}
