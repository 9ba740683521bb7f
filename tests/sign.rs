//! Signing as its user sees it: keys that nobody else reads, signatures that hold for what was signed and for nothing else.

mod support;

use support::{Bench, demo};

/// The key of the first test vector of RFC 8032, as `openssl pkey` writes it.
const SECRET: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g
-----END PRIVATE KEY-----
";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
-----END PUBLIC KEY-----
";

/// A folder with the demo, a key and the demo's signature.
fn signed() -> Bench {
    let bench = Bench::new();
    bench.write("model.bttt", std::fs::read(demo()).unwrap());
    bench.json("keygen --out key");
    bench.json("sign model.bttt --key key");
    bench
}

fn read(bench: &Bench, name: &str) -> Vec<u8> {
    std::fs::read(bench.path(name)).unwrap()
}

#[test]
fn what_a_key_signed_its_public_half_verifies() {
    let bench = signed();
    let report = bench.json("verify model.bttt --public key.pub");
    assert_eq!(report["kind"], "blob");
    assert_eq!(report["signature"], "model.bttt.sig");
    let again = bench.json("sign model.bttt --key key --out other.sig");
    assert_eq!(again["key_id"], report["key_id"]);
    assert_eq!(read(&bench, "other.sig"), read(&bench, "model.bttt.sig"));
    bench.json("verify model.bttt --public key.pub --signature other.sig");
}

#[test]
fn a_signature_behind_the_model_is_found_there() {
    let bench = signed();
    let mut image = read(&bench, "model.bttt");
    image.extend(read(&bench, "model.bttt.sig"));
    image.extend([0xFF; 500]);
    bench.write("image", image);
    let report = bench.json("verify image --public key.pub");
    assert_eq!(report["signature"], "image");
    // The model alone is what runs.
    bench.refuses("inspect image", 1, &["image"]);
}

#[test]
fn a_state_is_signed_too_and_not_as_a_model() {
    let bench = signed();
    let generate = "generate --model model.bttt --prompt Ada --max-tokens 4 --save-state s.state";
    assert!(bench.run(generate).status.success());
    assert_eq!(bench.json("sign s.state --key key")["kind"], "snapshot");
    assert_eq!(
        bench.json("verify s.state --public key.pub")["kind"],
        "snapshot"
    );
    bench.refuses(
        "verify s.state --public key.pub --signature model.bttt.sig",
        1,
        &["s.state", "model.bttt.sig", "not one of a snapshot"],
    );
    bench.refuses(
        "verify model.bttt --public key.pub --signature s.state.sig",
        1,
        &["not one of a blob"],
    );
}

#[test]
fn a_model_or_signature_with_one_bit_changed_is_refused() {
    let bench = signed();
    let (model, signature) = (read(&bench, "model.bttt"), read(&bench, "model.bttt.sig"));
    for i in 0..60 {
        let bit = i * (8 * model.len() - 1) / 59;
        let mut changed = model.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        bench.write("changed.bttt", changed);
        let line = "verify changed.bttt --public key.pub --signature model.bttt.sig";
        bench.refuses(line, 1, &["changed.bttt"]);
    }
    for byte in 0..signature.len() {
        let mut changed = signature.clone();
        changed[byte] ^= 1 << (byte % 8);
        bench.write("changed.sig", changed);
        let line = "verify model.bttt --public key.pub --signature changed.sig";
        bench.refuses(line, 1, &["changed.sig"]);
    }
}

#[test]
fn another_key_is_named_and_refused_and_one_of_several_will_do() {
    let bench = signed();
    let other = bench.json("keygen --out other");
    bench.refuses(
        "verify model.bttt --public other.pub",
        1,
        &["model.bttt", "signed with key"],
    );
    let both = bench.json("verify model.bttt --public other.pub --public key.pub");
    assert_ne!(both["key_id"], other["key_id"]);
}

#[test]
fn a_key_is_never_overwritten_and_only_its_owner_reads_it() {
    let bench = signed();
    let before = read(&bench, "key");
    bench.refuses("keygen --out key", 1, &["key", "exists"]);
    bench.write("half.pub", "somebody else's");
    bench.refuses("keygen --out half", 1, &["half.pub", "exists"]);
    assert!(!bench.path("half").exists());
    bench.refuses("keygen --out nowhere/key", 1, &["nowhere/key"]);
    assert_eq!(read(&bench, "key"), before);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(bench.path("key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    bench.json("keygen --out second");
    assert_ne!(read(&bench, "second"), before);
}

#[test]
fn keys_of_other_programs_are_read() {
    let bench = signed();
    bench.write("openssl", SECRET);
    bench.write("openssl.pub", PUBLIC.replace('\n', "\r\n"));
    bench.json("sign model.bttt --key openssl --out o.sig");
    bench.json("verify model.bttt --public openssl.pub --signature o.sig");
}

#[test]
fn what_is_no_key_says_what_to_give() {
    let bench = signed();
    bench.write("empty", "");
    bench.write("bytes", [0xFF; 32]);
    bench.write("cut", &SECRET[..SECRET.len() / 2]);
    bench.write(
        "x25519",
        SECRET.replace("MC4CAQAwBQYDK2VwBCIE", "MC4CAQAwBQYDK2VuBCIE"),
    );
    bench.write("locked", "-----BEGIN ENCRYPTED PRIVATE KEY-----\n");
    for (key, word) in [
        ("nowhere", "cannot read key nowhere"),
        ("empty", "not a secret key"),
        ("bytes", "not text"),
        ("cut", "not a secret key"),
        ("x25519", "not a secret key"),
        ("locked", "decrypt"),
        ("key.pub", "is a public key"),
    ] {
        bench.refuses(
            &format!("sign model.bttt --key {key} --out o.sig"),
            1,
            &[key, word],
        );
    }
    assert!(!bench.path("o.sig").exists());
    bench.refuses("verify model.bttt --public key", 1, &["key", "secret"]);
    bench.refuses("verify model.bttt --public empty", 1, &["empty", "keygen"]);
}

#[test]
fn what_cannot_be_signed_or_verified_is_named() {
    let bench = signed();
    let model = read(&bench, "model.bttt");
    bench.write("cut.bttt", &model[..1000]);
    bench.write("head.bttt", &model[..20]);
    bench.write("text.txt", "neither of them");
    let mut damaged = model.clone();
    damaged[model.len() / 2] ^= 1;
    bench.write("damaged.bttt", damaged);
    for (file, word) in [
        ("nowhere", "cannot read"),
        ("text.txt", "neither"),
        ("cut.bttt", "again"),
        ("head.bttt", "head.bttt"),
        ("damaged.bttt", "damaged"),
    ] {
        bench.refuses(&format!("sign {file} --key key"), 1, &[file, word]);
        assert!(!bench.path(&format!("{file}.sig")).exists());
    }
    bench.refuses(
        "verify cut.bttt --public key.pub",
        1,
        &["cut.bttt", "cut short"],
    );
    bench.refuses(
        "verify head.bttt --public key.pub",
        1,
        &["head.bttt", "cut short"],
    );
    bench.refuses(
        "verify text.txt --public key.pub",
        1,
        &["text.txt", "neither"],
    );
    bench.write("unsigned.bttt", &model);
    bench.refuses(
        "verify unsigned.bttt --public key.pub",
        1,
        &["unsigned.bttt.sig", "bitttt sign"],
    );
    bench.write("short.sig", [0; 12]);
    bench.write(
        "foreign.sig",
        "-----BEGIN SSH SIGNATURE-----, and so on, as long as ours and a little longer than it",
    );
    for name in ["short.sig", "foreign.sig"] {
        let line = format!("verify model.bttt --public key.pub --signature {name}");
        bench.refuses(&line, 1, &[name, "not a signature"]);
    }
    bench.refuses(
        "sign model.bttt --key key --out model.bttt",
        1,
        &["--out model.bttt"],
    );
    bench.refuses("sign model.bttt --key key --out key", 1, &["--out key"]);
    assert_eq!(read(&bench, "model.bttt"), model);
    bench.refuses("verify model.bttt", 2, &[]);
    bench.refuses("sign model.bttt", 2, &[]);
}
