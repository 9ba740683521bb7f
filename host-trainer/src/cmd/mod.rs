//! The subcommands of `bitttt`: each module has its `Args` and its `run`.

pub mod bench;
pub mod bench_train;
pub mod chat;
pub mod check_device;
pub mod corpus;
pub mod eval;
pub mod export;
pub mod generate;
pub mod import;
pub mod inspect;
pub mod keygen;
pub mod machine;
pub mod plan;
pub mod prepare;
pub mod quickstart;
pub mod sign;
pub mod synth;
pub mod tokenizer;
pub mod train;
pub mod trained;
pub mod verify;
