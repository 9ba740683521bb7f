//! `bitttt import`: what comes out, and what is refused by name with nothing left behind.

mod support;

use bitttt_core::Model;
use bitttt_export::AlignedCopy;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use support::Bench;

/// A checkpoint that is taken apart, changed and put together again.
struct Checkpoint {
    config: Value,
    tensors: BTreeMap<String, Tensor>,
}

struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/import")
        .join(name)
}

impl Checkpoint {
    fn of(name: &str) -> Self {
        let read = |file| std::fs::read(fixture(name).join(file)).unwrap();
        let bytes = read("model.safetensors");
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |(name, view): (&str, TensorView<'_>)| {
            let tensor = Tensor {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                data: view.data().to_vec(),
            };
            (name.to_owned(), tensor)
        };
        Self {
            config: serde_json::from_slice(&read("config.json")).unwrap(),
            tensors: file.iter().map(tensor).collect(),
        }
    }

    fn tensor(&mut self, part: &str) -> &mut Tensor {
        let mut all = self.tensors.iter_mut();
        all.find(|(name, _)| name.contains(part)).unwrap().1
    }

    fn save(&self, bench: &Bench, folder: &str) {
        std::fs::create_dir_all(bench.path(folder)).unwrap();
        bench.write(&format!("{folder}/config.json"), self.config.to_string());
        bench.write(&format!("{folder}/model.safetensors"), self.bytes(|_| true));
    }

    fn bytes(&self, takes: impl Fn(&str) -> bool) -> Vec<u8> {
        let own = self.tensors.iter().filter(|(name, _)| takes(name));
        let views = own.map(|(name, t)| {
            (
                name,
                TensorView::new(t.dtype, t.shape.clone(), &t.data).unwrap(),
            )
        });
        safetensors::serialize(views, None).unwrap()
    }
}

/// What `x.bttt` holds as metadata.
fn metadata(bench: &Bench) -> Value {
    let blob = AlignedCopy::of(&std::fs::read(bench.path("x.bttt")).unwrap());
    serde_json::from_str(Model::from_bytes(blob.bytes()).unwrap().metadata()).unwrap()
}

/// Imports what `change` makes of a fixture and expects one line with `words`, and no file.
fn refuses(kind: &str, name: &str, change: impl FnOnce(&mut Checkpoint), words: &[&str]) {
    let bench = Bench::new();
    let mut checkpoint = Checkpoint::of(name);
    change(&mut checkpoint);
    checkpoint.save(&bench, "x");
    refuses_in(&bench, &format!("import {kind} x --no-tokenizer"), words);
}

fn refuses_in(bench: &Bench, line: &str, words: &[&str]) {
    bench.refuses(&format!("{line} --out x.bttt"), 1, words);
    let left = std::fs::read_dir(bench.path(".")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    let blobs = left.iter().filter(|name| {
        let name = name.to_string_lossy();
        name.ends_with(".bttt") || name.ends_with(".tmp")
    });
    assert_eq!(blobs.count(), 0, "{left:?}");
}

/// As [`refuses`], for a field of the config.
fn refuses_field(kind: &str, name: &str, field: &str, value: Value, words: &[&str]) {
    let words: Vec<&str> = words
        .iter()
        .copied()
        .chain(["config.json", field])
        .collect();
    refuses(kind, name, |x| x.config[field] = value, &words);
}

#[test]
fn every_kind_becomes_a_blob_that_runs_and_the_report_says_what_it_holds() {
    for (kind, name, flags) in [
        ("hf-bitnet", "bitnet_packed", "--weights t5 --embedding i8"),
        ("hf-bitnet", "bitnet_online", "--context 100 --kv f16"),
        ("hf-llama", "llama_rows", "--activations i8"),
        ("ttt-lm", "ttt_linear_mamba", ""),
        ("ttt-lm", "ttt_mlp", "--ternarise"),
        ("bit-llama", "bit_llama", "--inner-lr 0.05"),
    ] {
        let bench = Bench::new();
        Checkpoint::of(name).save(&bench, "x");
        let report = bench.json(&format!(
            "import {kind} x --out x.bttt --no-tokenizer {flags}"
        ));
        assert_eq!(report["source"], kind);
        assert_eq!(report["tokenizer"], false);
        let inspected = bench.json("inspect x.bttt");
        assert_eq!(inspected["fingerprint"], report["fingerprint"]);
        let metadata = metadata(&bench);
        assert_eq!(metadata["source"], kind);
    }
}

#[test]
fn embeddings_and_contexts_are_as_chosen() {
    let bench = Bench::new();
    Checkpoint::of("bitnet_packed").save(&bench, "x"); // bf16
    for (flag, embed, head) in [
        ("as-is", "f16", "f16"),
        ("i8", "i8", "i8"),
        ("f32", "f32", "f32"),
    ] {
        let line = format!(
            "import hf-bitnet x --out x.bttt --no-tokenizer --embedding {flag} --context 77"
        );
        bench.json(&line);
        let inspected = bench.json("inspect x.bttt");
        let tensors = inspected["tensors"].as_array().unwrap();
        let dtype = |name| &tensors.iter().find(|t| t["name"] == name).unwrap()["dtype"];
        assert_eq!(
            (dtype("embed"), dtype("head")),
            (&json!(embed), &json!(head))
        );
        assert_eq!(dtype("layers.0.mixer.q"), "t2");
        assert_eq!(inspected["config"]["context"], 77);
    }
}

#[test]
fn bf16_that_does_not_fit_into_f16_becomes_f32_or_is_refused_where_f16_was_asked_for() {
    let bench = Bench::new();
    let mut checkpoint = Checkpoint::of("bitnet_packed");
    checkpoint.tensor("embed").data[..2].copy_from_slice(&[0x80, 0x7F - 8]); // about 1e33
    checkpoint.save(&bench, "x");
    bench.json("import hf-bitnet x --out y.bttt --no-tokenizer");
    let tensors = bench.json("inspect y.bttt")["tensors"].clone();
    assert_eq!(tensors[0]["dtype"], "f32");
    std::fs::remove_file(bench.path("y.bttt")).unwrap();
    refuses_in(
        &bench,
        "import hf-bitnet x --no-tokenizer --embedding f16",
        &["embed", "f16"],
    );
}

#[test]
fn tokenizer_template_and_stop_tokens_come_along() {
    let bench = Bench::new();
    Checkpoint::of("bitnet_packed").save(&bench, "x");
    let special = |id: u32, text: &str| json!({"id": id, "content": text, "special": true});
    let tokenizer = json!({
        "added_tokens": [special(1, "<s>"), special(2, "</s>"), special(9, "<|eot|>")],
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]},
        "model": {"type": "BPE", "vocab": {"a": 3}, "merges": []},
    });
    bench.write("x/tokenizer.json", tokenizer.to_string());
    let own = json!({"bos_token": {"content": "<s>"}, "eos_token": "<|eot|>",
        "chat_template": [{"name": "tool", "template": "no"}, {"name": "default", "template": "{{ messages }}"}]});
    bench.write("x/tokenizer_config.json", own.to_string());
    bench.write("x/generation_config.json", r#"{"eos_token_id": [2, 7]}"#);
    let imported = |bench: &Bench| -> Value {
        let report = bench.json("import hf-bitnet x --out x.bttt");
        assert_eq!(
            (&report["tokenizer"], &report["chat_template"]),
            (&json!(true), &json!(true))
        );
        metadata(bench)
    };
    assert_eq!(
        imported(&bench),
        json!({"source": "hf-bitnet", "tokenizer": tokenizer, "chat_template": "{{ messages }}", "bos_token": "<s>",
            "eos_token": "<|eot|>", "add_bos": true, "stop": [2, 7, 9]})
    );
    bench.write("x/chat_template.jinja", "of its own file");
    assert_eq!(imported(&bench)["chat_template"], "of its own file");
    std::fs::remove_file(bench.path("x.bttt")).unwrap();
    bench.write("x/tokenizer.json", "{");
    refuses_in(
        &bench,
        "import hf-bitnet x",
        &["tokenizer.json", "--no-tokenizer"],
    );
}

#[test]
fn files_that_are_missing_or_cut_short_are_named() {
    let bench = Bench::new();
    refuses_in(
        &bench,
        "import hf-bitnet nowhere",
        &["nowhere/config.json", "directory"],
    );
    Checkpoint::of("bitnet_packed").save(&bench, "x");
    refuses_in(
        &bench,
        "import hf-bitnet x",
        &["x/tokenizer.json", "--no-tokenizer"],
    );
    let line = "import hf-bitnet x --no-tokenizer";
    let whole = std::fs::read(bench.path("x/model.safetensors")).unwrap();
    for length in [0, 7, 100, whole.len() - 1] {
        bench.write("x/model.safetensors", &whole[..length]);
        refuses_in(&bench, line, &["x/model.safetensors", "cut short"]);
    }
    bench.write("x/model.safetensors", [whole.as_slice(), &[0]].concat());
    refuses_in(&bench, line, &["x/model.safetensors", "1 bytes behind"]);
    bench.write("x/model.safetensors", [b'x'; 100]);
    refuses_in(
        &bench,
        line,
        &["x/model.safetensors", "no safetensors file"],
    );
    std::fs::remove_file(bench.path("x/model.safetensors")).unwrap();
    refuses_in(&bench, line, &["x/model.safetensors"]);
    bench.write("x/config.json", "[]");
    refuses_in(&bench, line, &["x/config.json", "JSON object"]);
}

#[test]
fn shards_are_the_same_model_and_a_missing_one_is_named() {
    let bench = Bench::new();
    let checkpoint = Checkpoint::of("bitnet_packed");
    checkpoint.save(&bench, "x");
    let line = "import hf-bitnet x --out x.bttt --no-tokenizer";
    let fingerprint = bench.json(line)["fingerprint"].clone();
    std::fs::remove_file(bench.path("x/model.safetensors")).unwrap();
    let first = |name: &str| name.contains("layers.1.");
    let (a, b) = ("a.safetensors", "b.safetensors");
    bench.write(&format!("x/{a}"), checkpoint.bytes(first));
    bench.write(&format!("x/{b}"), checkpoint.bytes(|name| !first(name)));
    let names = checkpoint.tensors.keys();
    let map: BTreeMap<_, _> = names
        .map(|name| (name, if first(name) { a } else { b }))
        .collect();
    let index = |map: Value| {
        bench.write(
            "x/model.safetensors.index.json",
            json!({"weight_map": map}).to_string(),
        )
    };
    index(json!(map));
    assert_eq!(bench.json(line)["fingerprint"], fingerprint);
    std::fs::remove_file(bench.path("x.bttt")).unwrap();
    let line = "import hf-bitnet x --no-tokenizer";
    index(json!({"model.norm.weight": "../b.safetensors"}));
    refuses_in(
        &bench,
        line,
        &["index.json", "model.norm.weight", "not the name of a file"],
    );
    index(json!({"else": a}));
    refuses_in(&bench, line, &["index.json", "else", "none of the files"]);
    std::fs::remove_file(bench.path("x/b.safetensors")).unwrap();
    index(json!(map));
    refuses_in(&bench, line, &["x/b.safetensors", "again"]);
}

#[test]
fn tensors_that_do_not_fit_the_config_are_named() {
    let packed = |change: fn(&mut Checkpoint), words: &[&str]| {
        refuses("hf-bitnet", "bitnet_packed", change, words)
    };
    packed(
        |x| drop(x.tensors.remove("model.norm.weight")),
        &["model.norm.weight", "missing"],
    );
    packed(
        |x| x.tensor("input_layernorm").shape = vec![2, 36],
        &["input_layernorm", "[2, 36]", "[72]"],
    );
    packed(
        |x| x.tensor("q_proj.weight").shape = vec![36, 36],
        &["q_proj.weight", "[36, 36]", "72 rows"],
    );
    packed(
        |x| x.tensor("model.norm").dtype = Dtype::I16,
        &["model.norm.weight", "I16"],
    );
    packed(
        |x| drop(x.tensors.remove("model.layers.1.mlp.up_proj.weight_scale")),
        &["up_proj.weight_scale", "missing"],
    );
    packed(
        |x| x.tensor("q_proj.weight_scale").data = vec![0, 0],
        &["q_proj.weight_scale", "0"],
    );
    packed(
        |x| x.tensor("q_proj.weight").data[5] = 0xFF,
        &["mixer.q", "not ternary"],
    );
    packed(
        |x| x.tensor("model.norm").data[..2].copy_from_slice(&[0xC0, 0x7F]),
        &["norm", "not finite"],
    );
    packed(
        |x| x.config["num_hidden_layers"] = json!(1),
        &["layers.1.", "no part of such a model"],
    );
    packed(
        |x| x.config["num_hidden_layers"] = json!(4),
        &["layers.3.", "missing"],
    );
    packed(
        |x| x.config["vocab_size"] = json!(100),
        &["embed_tokens", "[96, 72]", "[100, 72]"],
    );
    packed(
        |x| x.config["eos_token_id"] = json!(96),
        &["token 96", "vocabulary has 96"],
    );
    let bias = |x: &mut Checkpoint| {
        let (dtype, shape, data) = (Dtype::F32, vec![1], vec![0; 4]);
        let bias = Tensor { dtype, shape, data };
        x.tensors
            .insert("model.layers.0.self_attn.q_proj.bias".to_owned(), bias);
    };
    packed(bias, &["q_proj.bias", "no part of such a model"]);
}

#[test]
fn config_fields_that_cannot_be_represented_are_refused_by_name() {
    let llama = |field, value, words: &[&str]| {
        refuses_field("hf-llama", "llama_packed", field, value, words)
    };
    llama("model_type", json!("mistral"), &["mistral", "llama"]);
    llama("model_type", json!("bitnet"), &["hf-bitnet"]);
    llama(
        "rope_scaling",
        json!({"rope_type": "llama3", "factor": 8.0}),
        &["llama3"],
    );
    llama("rope_parameters", json!({"rope_type": "yarn"}), &["yarn"]);
    llama("attention_bias", json!(true), &["biases"]);
    llama("mlp_bias", json!(true), &["biases"]);
    llama("head_dim", json!(64), &["12"]);
    llama("hidden_act", json!("gelu"), &["gelu", "silu", "relu2"]);
    llama("sliding_window", json!(128), &["128"]);
    llama("partial_rotary_factor", json!(0.5), &["0.5"]);
    llama("num_attention_heads", json!(5), &["72"]);
    llama("num_key_value_heads", json!(4), &["6 heads"]);
    llama("hidden_size", json!("big"), &["big"]);
    llama("intermediate_size", Value::Null, &["missing"]);
    llama(
        "tie_word_embeddings",
        json!(true),
        &["lm_head.weight", "not the embedding"],
    );
    llama(
        "quantization_config",
        json!({"quant_method": "gptq"}),
        &["gptq", "bitnet"],
    );
    llama(
        "quantization_config",
        json!({"quant_method": "bitnet", "use_rms_norm": true}),
        &["use_rms_norm"],
    );
    llama(
        "quantization_config",
        json!({"quant_method": "bitnet", "linear_class": "x"}),
        &["linear_class"],
    );
    llama("quantization_config", Value::Null, &[]);
    let bitnet = |field, value, words: &[&str]| {
        refuses_field("hf-bitnet", "bitnet_packed", field, value, words)
    };
    bitnet("model_type", json!("llama"), &["hf-llama"]);
    let ttt = |field, value, words: &[&str]| {
        refuses_field("ttt-lm", "ttt_linear_mamba", field, value, words)
    };
    ttt("conv_kernel", json!(3), &["4 taps"]);
    ttt("ttt_layer_type", json!("other"), &["linear", "mlp"]);
    ttt("tie_word_embeddings", json!(true), &["lm_head.weight"]);
    ttt("mini_batch_size", json!(70000), &["70000"]);
    let fewer = |x: &mut Checkpoint| x.config["num_layers"] = json!(1);
    refuses(
        "bit-llama",
        "bit_llama",
        fewer,
        &["layers.1.", "no part of such a model"],
    );
    refuses_field("bit-llama", "bit_llama", "hidden_dim", json!(37), &["37"]);
    refuses_field(
        "bit-llama",
        "bit_llama",
        "inner_lr",
        Value::Null,
        &["missing"],
    );
}

#[test]
fn a_head_that_is_missing_though_not_tied_is_refused() {
    let without = |x: &mut Checkpoint| drop(x.tensors.remove("lm_head.weight"));
    refuses(
        "hf-llama",
        "llama_packed",
        without,
        &["tie_word_embeddings", "lm_head.weight"],
    );
}

#[test]
fn llama_that_is_not_ternary_is_refused_with_two_ways_out() {
    let bench = Bench::new();
    let mut checkpoint = Checkpoint::of("llama_online");
    checkpoint.config["quantization_config"] = Value::Null;
    checkpoint.save(&bench, "x");
    let line = "import hf-llama x --no-tokenizer";
    refuses_in(
        &bench,
        line,
        &[
            "q_proj.weight",
            "not ternary: row 0",
            "--ternarise",
            "--float",
        ],
    );
    let rounded = bench.json(&format!("{line} --out x.bttt --ternarise"));
    let loss = rounded["losses"]["mixer.q"].as_f64().unwrap();
    assert!((0.45..0.55).contains(&loss), "{loss}");
    let kept = bench.json(&format!("{line} --out x.bttt --float"));
    assert_eq!(
        (&kept["ternary_weights"], &kept["losses"]),
        (&json!(0), &json!({}))
    );
    bench.refuses(&format!("{line} --out x.bttt --float --ternarise"), 2, &[]);
}

#[test]
fn what_is_no_bitt_file_or_no_rate_is_refused() {
    let bench = Bench::new();
    refuses_in(&bench, "import bit-llama x.bitt", &["x.bitt", "directory"]);
    for bytes in [
        &b"BIT"[..],
        b"BITT\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
        b"GGUF00000000",
        b"",
    ] {
        bench.write("x.bitt", bytes);
        refuses_in(
            &bench,
            "import bit-llama x.bitt",
            &["x.bitt", "no .bitt file"],
        );
    }
    bench.write("x.bitt", b"BITT\x02\0\0\0\0\0\0\0{}");
    refuses_in(
        &bench,
        "import bit-llama x.bitt",
        &["x.bitt", "config", "missing"],
    );
    bench.refuses("import bit-llama x --out y --inner-lr -1", 2, &[]);
    bench.refuses("import bit-llama x --out y --context 0", 2, &[]);
    bench.refuses("import nothing x --out y", 2, &[]);
}

#[test]
fn a_full_disk_leaves_nothing() {
    let bench = Bench::new();
    Checkpoint::of("bitnet_packed").save(&bench, "x");
    let line = [
        "import",
        "hf-bitnet",
        "x",
        "--no-tokenizer",
        "--out",
        "full.bttt",
    ];
    bench.refuses_on_a_full_disk(&line, "full.bttt");
}
