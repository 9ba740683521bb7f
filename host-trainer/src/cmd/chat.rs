//! `bitttt chat`

use super::generate::{Sampling, State};
use super::machine::MachineArgs;
use crate::engine::blob::{Blob, memory_for};
use crate::engine::chat::{Answering, Chat, Loaded, Template};
use crate::engine::text::TextTokenizer;
use crate::output::Output;
use anyhow::{Result, bail, ensure};
use bitttt_core::Learning;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

/// Talk with a model, or without a chat template write with it line by line; it learns over the whole conversation
#[derive(clap::Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  bitttt chat --model demo/demo.bttt --save-state me.state\n  \
bitttt chat --model bitnet.bttt --system \"Answer in one sentence.\"\n\n\
Lines starting with / are commands: /reset, /freeze, /learn, /save FILE, /load FILE, /system TEXT, /history, /quit.\n\
With a chat template /save FILE and --save-state FILE keep the conversation too, in FILE.chat.json."
)]
pub struct Args {
    /// The model, a .bttt blob
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// How a chat is written, and where text ends
    #[command(flatten)]
    pub talk: Talk,
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

/// How a chat is written, and where text ends.
#[derive(clap::Args, Clone, Debug)]
pub struct Talk {
    /// Chat template (Jinja, as Hugging Face writes it) instead of the model's own
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// Tell the model how to behave
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Stop where this text comes, and do not show it; may be given again
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

impl Talk {
    /// The template given, or else the model's own, if it has one.
    ///
    /// # Errors
    /// A template that cannot be read.
    pub fn template(&self, tokenizer: &TextTokenizer<'_>) -> Result<Option<Template>> {
        let (bos, eos) = tokenizer.bos_and_eos();
        match (&self.template, tokenizer.template()) {
            (Some(path), _) => Template::open(path, bos, eos).map(Some),
            (None, own) => own.map(|own| Template::new(own, bos, eos)).transpose(),
        }
    }
}

/// Runs the command: reads standard input to its end.
///
/// # Errors
/// Unreadable model, template or state, a state that cannot be written.
pub fn run(args: &Args, out: &Output) -> Result<()> {
    let answering = Answering {
        sampler: args.sampling.sampler()?,
        max_tokens: args.max_tokens,
        stop: args.talk.stop.clone(),
    };
    let blob = Blob::open(&args.model)?;
    let tokenizer = blob.tokenizer()?;
    let template = args.talk.template(&tokenizer)?;
    let machine = args.machine.machine()?;
    let batch = args.state.batch();
    let mut memory = memory_for(&blob.model(), batch)?;
    let session = machine.session(blob.model(), batch, &mut memory)?;
    let chat = Chat::new(session, batch, &tokenizer, template, answering);
    let mut console = Console {
        chat,
        out,
        turns: Vec::new(),
        told_of_rewriting: false,
    };
    console.start(args)?;
    console.talk()?;
    if let Some(path) = &args.state.save_state {
        console.chat.save(path)?;
    }
    out.result(&console.turns)
}

/// A conversation at standard input and output.
struct Console<'m, 's, 't> {
    chat: Chat<'m, 's, 't>,
    out: &'t Output,
    turns: Vec<Turn>,
    told_of_rewriting: bool,
}

#[derive(serde::Serialize)]
struct Turn {
    user: String,
    answer: String,
    state_hash: String,
}

impl Console<'_, '_, '_> {
    fn start(&mut self, args: &Args) -> Result<()> {
        if let Some(path) = &args.state.load_state {
            self.load(path)?;
        }
        self.chat.session.set_learning(args.state.learning());
        match &args.talk.system {
            Some(text) => self.chat.set_system(text),
            None => Ok(()),
        }
    }

    fn talk(&mut self) -> Result<()> {
        let prompt = || {
            eprint!("> ");
            std::io::stderr().flush()
        };
        prompt()?;
        for line in std::io::stdin().lock().lines() {
            match self.take(line?.trim()) {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => eprintln!("bitttt: {error:#}"), // a conversation survives a wrong command
            }
            prompt()?;
        }
        eprintln!();
        Ok(())
    }

    /// One line of input; true ends the conversation.
    fn take(&mut self, line: &str) -> Result<bool> {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        match command {
            "" => {}
            "/quit" => return Ok(true),
            "/reset" => self.chat.reset(),
            "/freeze" => self.chat.session.set_learning(Learning::Frozen),
            "/learn" => self.chat.session.set_learning(Learning::On),
            "/save" => self.chat.save(named(rest)?)?,
            "/load" => self.load(named(rest)?)?,
            "/system" => self.chat.set_system(rest)?,
            "/history" => self.history(),
            _ if command.starts_with('/') => bail!(
                "{command} is no command; there are /reset /freeze /learn /save /load /system /history /quit"
            ),
            _ => self.answer(line)?,
        }
        Ok(false)
    }

    fn load(&mut self, path: &Path) -> Result<()> {
        let file = path.display();
        match self.chat.load(path)? {
            Loaded::State | Loaded::Conversation => {}
            Loaded::NoHistory => eprintln!(
                "bitttt: {file}.chat.json has no conversation that belongs to this state: what was learned goes on, the \
                 conversation begins anew"
            ),
            Loaded::NoState => eprintln!(
                "bitttt: {file} was saved with other --context: its conversation goes on, and is read again with your next line"
            ),
        }
        Ok(())
    }

    fn history(&self) {
        for message in self.chat.messages() {
            eprintln!("{}: {}", message.role.name(), message.content.trim());
        }
    }

    fn answer(&mut self, line: &str) -> Result<()> {
        let turn = self.chat.ask(line)?;
        if turn.rewritten && !std::mem::replace(&mut self.told_of_rewriting, true) {
            eprintln!(
                "bitttt: the template writes earlier turns in another way than they were read: the conversation is read \
                 again from its start, now and whenever that is so"
            );
        }
        let json = self.out.json;
        let answer = self.chat.answer(turn, |piece| {
            if !json {
                print!("{piece}");
                std::io::stdout().flush()?;
            }
            Ok(())
        })?;
        if !json {
            println!();
        }
        if answer.full {
            eprintln!(
                "bitttt: the context is full: /reset begins anew, /save FILE keeps the conversation for a start with a larger \
                 --context"
            );
        }
        let state_hash = format!("{:08x}", self.chat.session.state_hash());
        self.turns.push(Turn {
            user: line.to_owned(),
            answer: answer.text,
            state_hash,
        });
        Ok(())
    }
}

fn named(file: &str) -> Result<&Path> {
    ensure!(!file.is_empty(), "name a file: /save FILE, /load FILE");
    Ok(Path::new(file))
}
