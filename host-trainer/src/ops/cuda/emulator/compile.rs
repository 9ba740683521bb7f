//! From CUDA C++ to a library of this machine.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::Arg;
use super::Kernel;

const SHIM: &str = include_str!("shim.h");

/// Contraction off, as on the card; `fmaf` where the kernels say so.
const FLAGS: [&str; 8] = [
    "-std=c++17",
    "-O1",
    "-march=native",
    "-fPIC",
    "-shared",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-w",
];

/// A kernel's parameters, in the words of [`Arg`].
struct Signature {
    name: String,
    parameters: Vec<String>,
}

/// Compiled kernels.
pub struct Library {
    handle: usize,
    signatures: Vec<Signature>,
}

/// The C++ compiler: `$CXX`, or the first of the usual names that starts.
pub fn compiler() -> Result<String, String> {
    let given = std::env::var("CXX").ok();
    let names = given
        .into_iter()
        .chain(["c++", "g++", "clang++"].map(str::to_owned));
    let works = |name: &String| {
        let version = Command::new(name).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    };
    let mut names = names.filter(works);
    names
        .next()
        .ok_or("there is no C++ compiler here".to_owned())
}

/// Kernels of a source: `KERNEL [bounds] void name(type name, …)`.
fn signatures(source: &str) -> Vec<Signature> {
    let signature = |text: &str| {
        let (_, text) = text.split_once("void ").expect("a kernel");
        let (name, rest) = text.split_once('(').expect("parameters");
        let (list, _) = rest.split_once(')').expect("an end of parameters");
        let kind = |parameter: &str| {
            let parameter = parameter.trim().trim_start_matches("const ");
            let (kind, _) = parameter.rsplit_once(' ').expect("a type and a name");
            kind.trim_end_matches(" __restrict__").to_owned()
        };
        Signature {
            name: name.trim().to_owned(),
            parameters: list.split(',').map(kind).collect(),
        }
    };
    source.split("\nKERNEL ").skip(1).map(signature).collect()
}

impl Library {
    /// Compiles kernels; a source that was compiled before is not compiled again.
    pub fn build(source: &str) -> Self {
        let signatures = signatures(source);
        let entries: String = signatures
            .iter()
            .map(|s| format!("EMULATED({})\n", s.name))
            .collect();
        let text = format!("{SHIM}\n{source}\n{entries}");
        let hash = crc32fast::hash(format!("{}{FLAGS:?}{text}", compiler().unwrap()).as_bytes());
        let program = std::env::current_exe().expect("a path of this program");
        let path = program.with_file_name(format!("kernels-{hash:08x}.so"));
        if !path.is_file() {
            compile(&text, &path);
        }
        Self {
            handle: open(&path),
            signatures,
        }
    }

    fn signature(&self, kernel: &str) -> &Signature {
        let mut all = self.signatures.iter();
        all.find(|s| s.name == kernel)
            .unwrap_or_else(|| panic!("there is no kernel {kernel}"))
    }

    /// Arguments have the types that the kernel declares.
    pub fn check_arguments(&self, kernel: &str, args: &[Arg]) {
        let kind = |arg: &Arg| match arg {
            Arg::Address(_, name) => format!("{name}*"),
            Arg::Int(_) => "int".to_owned(),
            Arg::Len(_) => "size_t".to_owned(),
            Arg::Float(_) => "float".to_owned(),
        };
        let given: Vec<_> = args.iter().map(kind).collect();
        assert_eq!(
            given,
            self.signature(kernel).parameters,
            "arguments of {kernel}"
        );
    }

    pub fn kernel(&self, name: &str) -> Kernel {
        let symbol = CString::new(format!("emulate_{name}")).expect("a name");
        // SAFETY: the handle is of a library that is never closed.
        let address = unsafe { libc::dlsym(self.handle as *mut _, symbol.as_ptr()) };
        assert!(!address.is_null(), "the library has no {name}");
        // SAFETY: `EMULATED` gives every such symbol this type.
        unsafe { std::mem::transmute::<*mut libc::c_void, Kernel>(address) }
    }
}

fn compile(text: &str, path: &Path) {
    let dir =
        tempfile::tempdir_in(path.parent().expect("a folder")).expect("a folder to compile in");
    let (source, built): (PathBuf, PathBuf) = (
        dir.path().join("kernels.cpp"),
        dir.path().join("kernels.so"),
    );
    std::fs::write(&source, text).expect("room for a source");
    let mut command = Command::new(compiler().unwrap());
    let output = command
        .args(FLAGS)
        .arg("-o")
        .arg(&built)
        .arg(&source)
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "the kernels do not compile:\n{log}"
    );
    std::fs::rename(&built, path).expect("a library in its place");
}

fn open(path: &Path) -> usize {
    let name = CString::new(path.as_os_str().as_encoded_bytes()).expect("a path without a zero");
    // SAFETY: the library is our own and runs nothing when it is loaded.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!handle.is_null(), "{} does not load", path.display());
    handle as usize
}
