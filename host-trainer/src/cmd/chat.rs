//! `bitttt chat`

use super::generate::{Sampling, State};
use super::machine::MachineArgs;
use crate::engine::blob::{Blob, load_state, memory_for, save_state};
use crate::engine::generate::generate;
use crate::engine::text::{Utf8Stream, encode};
use crate::output::Output;
use anyhow::{Result, bail, ensure};
use bitttt_core::{Learning, Sampler, Session, Tokenizer};
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

/// Write with a model line by line; it remembers and learns over the whole conversation
#[derive(clap::Args, Clone, Debug)]
#[command(
    after_help = "Example:\n  bitttt chat --model demo/demo.bttt --save-state me.state\n\n\
Lines starting with / are commands: /reset, /freeze, /learn, /save FILE, /load FILE, /quit."
)]
pub struct Args {
    /// The model, a .bttt blob
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Most tokens of one answer
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub max_tokens: usize,
    /// How tokens are chosen
    #[command(flatten)]
    pub sampling: Sampling,
    /// What the session starts from and leaves
    #[command(flatten)]
    pub state: State,
    /// What to run on
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// Runs the command: reads standard input to its end.
///
/// # Errors
/// Unreadable model or state, a state that cannot be written.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    let sampler = args.sampling.sampler()?;
    let blob = Blob::open(&args.model)?;
    let machine = args.machine.machine()?;
    let batch = args.state.batch();
    let mut memory = memory_for(&blob.model(), batch)?;
    let mut session = machine.session(blob.model(), batch, &mut memory)?;
    args.state.prepare(&mut session)?;
    let mut chat = Chat {
        session,
        tokenizer: blob.tokenizer()?,
        sampler,
        max_tokens: args.max_tokens,
        turns: Vec::new(),
    };
    let prompt = || {
        eprint!("> ");
        std::io::stderr().flush()
    };
    prompt()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match chat.take(line.trim(), out) {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => eprintln!("bitttt: {error:#}"), // a conversation survives a wrong command
        }
        prompt()?;
    }
    eprintln!();
    args.state.keep(&chat.session)?;
    out.result(&chat.turns)
}

struct Chat<'m, 's> {
    session: Session<'m, 's>,
    tokenizer: Tokenizer<'m>,
    sampler: Sampler,
    max_tokens: usize,
    turns: Vec<Turn>,
}

#[derive(serde::Serialize)]
struct Turn {
    user: String,
    answer: String,
    state_hash: String,
}

impl Chat<'_, '_> {
    /// One line of input; true ends the conversation.
    fn take(&mut self, line: &str, out: &Output) -> Result<bool> {
        let (command, file) = line.split_once(' ').unwrap_or((line, ""));
        let file = Path::new(file.trim());
        match command {
            "" => {}
            "/quit" => return Ok(true),
            "/reset" => self.session.reset(),
            "/freeze" => self.session.set_learning(Learning::Frozen),
            "/learn" => self.session.set_learning(Learning::On),
            "/save" => save_state(&self.session, named(file)?)?,
            "/load" => load_state(&mut self.session, named(file)?)?,
            _ if command.starts_with('/') => {
                bail!("{command} is no command; there are /reset /freeze /learn /save /load /quit")
            }
            _ => self.answer(line, out)?,
        }
        Ok(false)
    }

    /// The model goes on after the user's line until a line or the document ends.
    fn answer(&mut self, line: &str, out: &Output) -> Result<()> {
        let document = self.session.model().config().document_token;
        let mut prompt = encode(&self.tokenizer, line.as_bytes());
        if self.session.position() == 0 {
            prompt.insert(0, document);
        }
        let (mut stream, mut answer) = (Utf8Stream::default(), String::new());
        let tokenizer = self.tokenizer;
        generate(
            &mut self.session,
            &prompt,
            self.max_tokens,
            Some(document),
            &mut self.sampler,
            |token| {
                let piece = stream.push(tokenizer.decode(token));
                if !out.json {
                    print!("{piece}");
                    std::io::stdout().flush()?;
                }
                answer.push_str(&piece);
                Ok(())
            },
        )?;
        if !out.json {
            println!();
        }
        let state_hash = format!("{:08x}", self.session.state_hash());
        self.turns.push(Turn {
            user: line.to_owned(),
            answer,
            state_hash,
        });
        Ok(())
    }
}

fn named(file: &Path) -> Result<&Path> {
    ensure!(
        !file.as_os_str().is_empty(),
        "name a file: /save FILE, /load FILE"
    );
    Ok(file)
}
