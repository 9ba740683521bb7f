//! Text and chat with imported models: their own tokenizers, stop tokens, templates, histories.

#[path = "support/imported.rs"]
mod imported;
mod support;

use bitttt::engine::chat::{Answering, Chat, Loaded, Message, Role, Template, stop_tokens};
use bitttt::engine::text::TextTokenizer;
use bitttt_core::{Batch, Model, Sampler, Session};
use bitttt_export::AlignedCopy;
use bitttt_export::random::FULL_LAYER;
use imported::{ATTENTION, TEMPLATE, all_bytes, ascii, blob, metadata};
use support::{Bench, demo};

const BATCH: Batch = Batch::new(16);

fn answering(stop: &[&str]) -> Answering {
    Answering {
        sampler: Sampler::new(1.0, 5),
        max_tokens: 24,
        stop: stop.iter().map(|&s| s.to_owned()).collect(),
    }
}

/// Runs `talk` on a chat with a random model, and gives it a second session to compare with.
fn with_chat(
    template: &str,
    layer: bitttt_core::format::LayerConfig,
    talk: impl FnOnce(&mut Chat<'_, '_, '_>, &mut Session<'_, '_>, &TextTokenizer<'_>, &Template),
) {
    let mut metadata = metadata(ascii());
    metadata.stop = vec![0, 1, 2]; // special tokens in the middle of an answer are no text
    let bytes = AlignedCopy::of(&blob(&metadata, layer, 4096));
    let model = Model::from_bytes(bytes.bytes()).unwrap();
    let tokenizer = TextTokenizer::of(&model).unwrap();
    let words = model.memory(BATCH).words();
    let (mut memory, mut other) = (vec![0.0; words], vec![0.0; words]);
    let session = Session::new(model, BATCH, &mut memory).unwrap();
    let (bos, eos) = tokenizer.bos_and_eos();
    let parse = || Template::new(template, bos, eos).unwrap();
    let mut chat = Chat::new(session, BATCH, &tokenizer, Some(parse()), answering(&[]));
    let mut fresh = Session::new(model, BATCH, &mut other).unwrap();
    talk(&mut chat, &mut fresh, &tokenizer, &parse());
}

/// What a session would read that is given the whole conversation at once: all but the end of the last answer.
fn whole(tokenizer: &TextTokenizer<'_>, template: &Template, messages: &[Message]) -> Vec<u32> {
    let (last, before) = messages.split_last().unwrap();
    assert_eq!(last.role, Role::Assistant);
    let text = template.render(before).unwrap() + &last.content;
    tokenizer.encode_after(&text, 0).unwrap()
}

#[test]
fn turns_read_one_by_one_leave_the_state_of_the_whole_conversation_read_at_once() {
    for layer in [ATTENTION, FULL_LAYER] {
        with_chat(TEMPLATE, layer, |chat, fresh, tokenizer, template| {
            chat.set_system("Be kind.").unwrap();
            for line in ["Hi!", "What is that?", "Bye."] {
                let before = chat.session.position();
                let turn = chat.ask(line).unwrap();
                assert!(!turn.again);
                let answer = chat.answer(turn, |_| Ok(())).unwrap();
                let read = whole(tokenizer, template, chat.messages());
                fresh.reset();
                fresh.prefill(&read).unwrap();
                assert_eq!(chat.session.position(), read.len() as u64);
                assert_eq!(chat.session.state_hash(), fresh.state_hash());
                let new = answer.generated.prompt_tokens + answer.generated.tokens.len();
                assert_eq!(
                    before + new as u64,
                    read.len() as u64,
                    "only what is new was read"
                );
                let logits = chat.session.step(1).unwrap().to_vec();
                assert_eq!(logits, fresh.step(1).unwrap());
                // The step is no part of the conversation.
                fresh.reset();
                fresh.prefill(&read).unwrap();
                restore(&mut chat.session, fresh);
            }
            assert_eq!(chat.messages().len(), 7);
        });
    }
}

fn restore(session: &mut Session<'_, '_>, from: &Session<'_, '_>) {
    let mut bytes = vec![0; bitttt_core::snapshot::HEADER_BYTES + 4 * from.state().len()];
    from.snapshot(&mut bytes).unwrap();
    session.restore(&bytes).unwrap();
}

#[test]
fn the_token_that_a_template_writes_behind_answers_ends_them_too() {
    let mut metadata = metadata(ascii());
    metadata.stop = vec![0];
    let bytes = AlignedCopy::of(&blob(&metadata, ATTENTION, 64));
    let model = Model::from_bytes(bytes.bytes()).unwrap();
    let tokenizer = TextTokenizer::of(&model).unwrap();
    let stops = |template: &str| {
        let template = Template::new(template, "<|begin|>", "").unwrap();
        stop_tokens(&tokenizer, Some(&template))
    };
    assert_eq!(stops(TEMPLATE), [0, 1]);
    let plain = TEMPLATE.replace("<|end|>", " ");
    assert_eq!(stops(&plain), [0]);
    assert_eq!(stop_tokens(&tokenizer, None), [0]);
}

#[test]
fn white_space_that_a_template_trims_from_answers_is_no_reason_to_read_again() {
    let trimming = TEMPLATE.replace("m.content }}", "m.content | trim }}");
    with_chat(&trimming, ATTENTION, |chat, _, _, _| {
        for line in ["One", "Two", "Three", "Four", "Five", "Six"] {
            let turn = chat.ask(line).unwrap();
            assert!(!turn.again, "{:?}", chat.messages());
            chat.answer(turn, |_| Ok(())).unwrap();
        }
    });
}

#[test]
fn where_a_template_rewrites_earlier_turns_the_conversation_is_read_again() {
    let counting = format!("{{{{ messages | length }}}}{TEMPLATE}");
    with_chat(&counting, FULL_LAYER, |chat, fresh, tokenizer, template| {
        for (line, again) in [("One", false), ("Two", true), ("Three", true)] {
            let turn = chat.ask(line).unwrap();
            assert_eq!(turn.again, again);
            chat.answer(turn, |_| Ok(())).unwrap();
            fresh.reset();
            fresh
                .prefill(&whole(tokenizer, template, chat.messages()))
                .unwrap();
            assert_eq!(chat.session.state_hash(), fresh.state_hash());
        }
    });
}

#[test]
fn a_saved_conversation_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("me.state");
    let mut hashes = Vec::new();
    for reloaded in [false, true] {
        with_chat(TEMPLATE, FULL_LAYER, |chat, _, _, _| {
            let say = |chat: &mut Chat<'_, '_, '_>, line| {
                let turn = chat.ask(line).unwrap();
                assert!(!turn.again);
                chat.answer(turn, |_| Ok(())).unwrap()
            };
            if reloaded {
                assert_eq!(chat.load(&file).unwrap(), Loaded::Conversation);
            } else {
                say(chat, "One");
                chat.save(&file).unwrap();
            }
            assert_eq!(chat.messages().len(), 2);
            let read = chat.ask("Two").unwrap();
            hashes.push((format!("{read:?}"), chat.session.state_hash()));
        });
    }
    assert_eq!(hashes[0], hashes[1]);
    std::fs::remove_file(folder.path().join("me.state.chat.json")).unwrap();
    with_chat(TEMPLATE, FULL_LAYER, |chat, _, _, _| {
        assert_eq!(chat.load(&file).unwrap(), Loaded::NoHistory);
        assert!(chat.messages().is_empty() && chat.session.position() > 0);
        assert!(!chat.ask("Three").unwrap().again);
    });
}

/// A folder with an imported attention model.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.write("m.bttt", blob(&metadata(ascii()), ATTENTION, 256));
    bench
}

fn output(output: &std::process::Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn chat_answers_by_the_models_template_and_keeps_the_conversation() {
    let bench = bench();
    let args = [
        "chat",
        "--model",
        "m.bttt",
        "--system",
        "Be kind.",
        "--max-tokens",
        "9",
        "--json",
    ];
    let saved = bench.run_with_input(&args, "Hi\n/save me.state\n/history\n/quit\n");
    let (stdout, stderr) = output(&saved);
    let turns: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let answer = turns[0]["answer"].as_str().unwrap();
    assert!(!answer.contains("<|") && saved.status.success(), "{answer}");
    assert!(
        stderr.contains("system: Be kind.") && stderr.contains("user: Hi"),
        "{stderr}"
    );
    let loaded = bench.run_with_input(&args[..3], "/load me.state\n/history\nMore\n");
    let (stdout, stderr) = output(&loaded);
    assert!(stderr.contains(&format!("assistant: {answer}")), "{stderr}");
    assert!(
        !stderr.contains("bitttt:") && !stdout.is_empty(),
        "{stderr}"
    );
}

#[test]
fn a_full_context_is_said_and_the_conversation_survives_into_a_larger_one() {
    let bench = bench();
    let args = ["chat", "--model", "m.bttt", "--context", "128"];
    let line = "x".repeat(50);
    let input = format!("{line}\n{line}\n{line}\n/save me.state\n");
    let full = bench.run_with_input(&args, &input);
    let (_, stderr) = output(&full);
    assert!(
        full.status.success() && stderr.contains("context is full"),
        "{stderr}"
    );
    assert!(
        stderr.contains("room for 128 tokens") && stderr.contains("--context"),
        "{stderr}"
    );
    let args = [
        "chat",
        "--model",
        "m.bttt",
        "--context",
        "512",
        "--load-state",
        "me.state",
    ];
    let more = bench.run_with_input(&args, "/history\nHi\n");
    let (stdout, stderr) = output(&more);
    assert!(
        stderr.contains("read again") && stderr.contains(&line),
        "{stderr}"
    );
    assert!(!stdout.trim().is_empty());
}

#[test]
fn what_a_template_objects_to_is_one_line_and_the_conversation_goes_on() {
    let bench = bench();
    bench.write("t.jinja", "{% if messages[-1].content == 'no' %}{{ raise_exception('not that') }}{% endif %}{{ messages[-1].content }}");
    let args = [
        "chat",
        "--model",
        "m.bttt",
        "--template",
        "t.jinja",
        "--json",
    ];
    let (stdout, stderr) = output(&bench.run_with_input(&args, "no\nyes\n"));
    assert!(stderr.contains("not that"), "{stderr}");
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&stdout)
            .unwrap()
            .as_array()
            .unwrap()
            .len(),
        1
    );
    bench.write("bad.jinja", "{% if %}");
    bench.refuses(
        "chat --model m.bttt --template bad.jinja",
        1,
        &["bad.jinja", "line 1"],
    );
    bench.refuses(
        "chat --model m.bttt --template nowhere.jinja",
        1,
        &["nowhere.jinja"],
    );
}

#[test]
fn our_own_models_chat_without_a_template_and_say_what_needs_one() {
    let bench = Bench::new();
    let demo = demo();
    let args = [
        "chat",
        "--model",
        &demo,
        "--temp",
        "0",
        "--max-tokens",
        "5",
        "--json",
    ];
    let (stdout, stderr) =
        output(&bench.run_with_input(&args, "Ada Varga\n/system Be kind.\n/save a.state\n"));
    assert!(
        stdout.contains("\"answer\"") && stderr.contains("--template FILE"),
        "{stderr}"
    );
    assert!(bench.path("a.state").exists() && !bench.path("a.state.chat.json").exists());
    bench.refuses_args(
        &["generate", "--model", &demo, "--chat", "--prompt", "Hi"],
        1,
        &["--template FILE"],
    );
    bench.refuses_args(
        &["chat", "--model", &demo, "--system", "x"],
        1,
        &["--template FILE"],
    );
    bench.refuses_args(
        &[
            "generate", "--model", &demo, "--prompt", "Hi", "--system", "x",
        ],
        1,
        &["--chat"],
    );
}

#[test]
fn generating_stops_at_stop_tokens_and_texts_and_shows_neither() {
    let bench = bench();
    let all =
        bench.json("generate --model m.bttt --prompt Hi --max-tokens 60 --seed 3 --ignore-end");
    let text = all["text"].as_str().unwrap().to_owned();
    assert!(all["finish"] == "length" && text.starts_with("Hi"));
    let tokens: Vec<u64> = all["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t.as_u64().unwrap())
        .collect();
    // A stop token of the model's.
    let (stop, at) = (
        tokens[20],
        tokens.iter().position(|&t| t == tokens[20]).unwrap(),
    );
    let mut other = metadata(ascii());
    other.stop = vec![1, stop as u32];
    bench.write("stops.bttt", blob(&other, ATTENTION, 256));
    let stopped = bench.json("generate --model stops.bttt --prompt Hi --max-tokens 60 --seed 3");
    assert_eq!(
        (
            &stopped["finish"],
            stopped["tokens"].as_array().unwrap().len()
        ),
        (&"token".into(), at)
    );
    // A text, over several tokens.
    let stop = &text[20..23];
    let at = text[2..].find(stop).unwrap() + 2;
    let args = [
        "generate",
        "--model",
        "m.bttt",
        "--prompt",
        "Hi",
        "--max-tokens",
        "60",
        "--seed",
        "3",
        "--ignore-end",
        "--stop",
        stop,
        "--json",
    ];
    let (stdout, _) = output(&bench.run_args(&args));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (&report["finish"], report["text"].as_str().unwrap()),
        (&"text".into(), &text[..at])
    );
}

#[test]
fn one_message_is_answered_by_generate() {
    let bench = bench();
    let args = [
        "generate",
        "--model",
        "m.bttt",
        "--chat",
        "--system",
        "S",
        "--prompt",
        "Hi",
        "--max-tokens",
        "5",
        "--json",
    ];
    let (stdout, _) = output(&bench.run_args(&args));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    // <|begin|><|role|>system:S<|end|><|role|>user:Hi<|end|><|role|>assistant:
    assert_eq!(
        report["prompt_tokens"],
        1 + (1 + 8 + 1) + (1 + 7 + 1) + (1 + 10)
    );
    assert!(!report["text"].as_str().unwrap().contains("Hi"));
}

#[test]
fn imported_models_are_evaluated_and_inspected() {
    let bench = Bench::new();
    let mut imported = metadata(all_bytes());
    imported.note = Some("tiny".to_owned());
    bench.write("m.bttt", blob(&imported, FULL_LAYER, 256));
    let text = "日本 é and more.\n".repeat(20);
    bench.write("text.txt", &text);
    let score = bench.json("eval --model m.bttt --data text.txt");
    let frozen = &score["frozen"];
    assert_eq!(
        (frozen["bytes"].as_u64(), frozen["tokens"].as_u64()),
        (Some(text.len() as u64), Some(text.len() as u64))
    );
    let bits = frozen["loss"].as_f64().unwrap() / std::f64::consts::LN_2;
    assert!((frozen["bits_per_byte"].as_f64().unwrap() - bits).abs() < 1e-9);
    bench.refuses(
        "eval --model m.bttt --data text.txt --split-bytes 5",
        1,
        &["whole characters"],
    );
    let report = bench.json("inspect m.bttt");
    let summary = &report["metadata"];
    assert_eq!(
        summary["tokenizer"],
        serde_json::json!({"kind": "BPE", "tokens": 259, "merges": 0})
    );
    assert_eq!(
        (&summary["chat_template"], &summary["stop"]),
        (&true.into(), &serde_json::json!([1]))
    );
    assert!(report.to_string().len() < 20_000);
    let (stdout, _) = output(&bench.run("inspect m.bttt"));
    assert!(
        stdout.contains("hf-llama") && stdout.contains("tiny") && !stdout.contains("vocab\""),
        "{stdout}"
    );
}

#[test]
fn models_without_a_tokenizer_say_what_to_do() {
    let bench = Bench::new();
    let mut imported = metadata(ascii());
    imported.tokenizer = None;
    bench.write("none.bttt", blob(&imported, ATTENTION, 64));
    bench.refuses(
        "generate --model none.bttt --prompt Hi",
        1,
        &["tokenizer.json", "import it again"],
    );
    let mut imported = metadata(ascii());
    imported.tokenizer =
        Some(serde_json::json!({"model": {"type": "None", "vocab": {"a": 0, "b": 1}}}));
    imported.bos_token = None;
    bench.write("bad.bttt", blob(&imported, ATTENTION, 64));
    bench.refuses("chat --model bad.bttt", 1, &["tokenizer cannot be read"]);
}
