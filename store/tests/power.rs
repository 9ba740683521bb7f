//! The power goes at every step of every save, in every way, and again while the next save is under way.

mod common;

use bitttt_core::{Batch, MemoryPlan, Session};
use bitttt_export::AlignedCopy;
use bitttt_store::{Store, StoreError};
use common::nor::{Fault, Nor, TEARS};
use common::{model, session, snapshot_bytes};

const SAVES: usize = 4;

/// One flash, and sessions to save to it one after the other.
struct Campaign<const WRITE: usize, const ERASE: usize, const READ: usize> {
    sessions: Vec<Session<'static, 'static>>,
    target: Session<'static, 'static>,
    range: std::ops::Range<u32>,
    cuts: [usize; 2],
}

impl<const WRITE: usize, const ERASE: usize, const READ: usize> Campaign<WRITE, ERASE, READ> {
    fn new() -> Self {
        let model = model(7);
        let sessions: Vec<_> = (0..=SAVES).map(|i| session(model, 1 + 7 * i)).collect();
        let slot = Store::<Nor<WRITE, ERASE, READ>>::slot_for(snapshot_bytes(&sessions[0]));
        Self {
            sessions,
            target: session(model, 3),
            range: ERASE as u32..(ERASE + 2 * slot) as u32, // a sector of somebody else's on either side
            cuts: [0; 2],
        }
    }

    fn flash(&self) -> Nor<WRITE, ERASE, READ> {
        Nor::new(self.range.end as usize / ERASE + 1)
    }

    /// Saves session `i`.
    fn save(&self, flash: &mut Nor<WRITE, ERASE, READ>, i: usize) -> Result<(), StoreError<Fault>> {
        let mut store = Store::new(flash, self.range.clone()).unwrap();
        store.save(&self.sessions[i]).map(|_| ())
    }

    /// Which session's state is loaded after a start.
    fn load(&mut self, flash: &mut Nor<WRITE, ERASE, READ>) -> Option<usize> {
        let before = self.target.state_hash();
        let mut store = Store::new(flash, self.range.clone()).unwrap();
        let loaded = store.load(&mut self.target);
        let hash = self.target.state_hash();
        match loaded {
            Ok(Some(_)) => {
                let known = |session: &Session<'_, '_>| session.state_hash() == hash;
                let state = self.sessions.iter().position(known);
                assert!(state.is_some(), "a state that nobody saved");
                state
            }
            // Only a flash that checks its words says so, and only where nothing was saved before.
            Ok(None) | Err(StoreError::Flash(Fault::Torn)) => {
                assert_eq!(hash, before);
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Every cut of every save; after each of them so many of the save that follows.
    fn run(&mut self, checked: bool, seconds: usize) -> [usize; 2] {
        let mut flash = self.flash();
        flash.checked = checked;
        let others = flash.bytes.clone();
        for i in 0..SAVES {
            let mut after = flash.clone();
            self.save(&mut after, i).unwrap();
            assert_eq!(self.load(&mut after), Some(i));
            self.cut_everywhere(&flash, after.steps - flash.steps, i, seconds);
            flash = after;
        }
        let (start, end) = (self.range.start as usize, self.range.end as usize);
        assert_eq!(flash.bytes[..start], others[..start]);
        assert_eq!(flash.bytes[end..], others[end..]);
        let worn = &flash.wear[start / ERASE..end / ERASE];
        assert!(worn.iter().all(|&erasures| erasures == SAVES as u32 / 2));
        self.cuts
    }

    /// The power goes while session `i` is saved, which takes so many steps.
    fn cut_everywhere(
        &mut self,
        flash: &Nor<WRITE, ERASE, READ>,
        steps: usize,
        i: usize,
        seconds: usize,
    ) {
        for (step, tear) in (0..steps).flat_map(|step| TEARS.map(|tear| (step, tear))) {
            let mut flash = flash.clone();
            flash.cut_at(step, tear);
            assert!(self.save(&mut flash, i).is_err());
            flash.power_on();
            let left = self.load(&mut flash);
            let expected = [i.checked_sub(1), Some(i)];
            assert!(expected.contains(&left), "{left:?} at {step}, {tear:?}");
            self.cuts[0] += 1;
            self.cut_again(&flash, i + 1, left, seconds);
            self.save(&mut flash, i + 1).unwrap();
            assert_eq!(self.load(&mut flash), Some(i + 1));
        }
    }

    /// The power goes again while session `i` is saved to what is left.
    fn cut_again(
        &mut self,
        flash: &Nor<WRITE, ERASE, READ>,
        i: usize,
        left: Option<usize>,
        seconds: usize,
    ) {
        let mut whole = flash.clone();
        self.save(&mut whole, i).unwrap();
        let steps = whole.steps - flash.steps;
        for n in 0..seconds.min(steps) {
            let mut flash = flash.clone();
            let step = if seconds < steps {
                whole.draw(steps)
            } else {
                n
            };
            let tear = TEARS[whole.draw(TEARS.len())];
            flash.cut_at(step, tear);
            assert!(self.save(&mut flash, i).is_err());
            flash.power_on();
            let now = self.load(&mut flash);
            assert!(now == left || now == Some(i), "{now:?} at {step}, {tear:?}");
            self.cuts[1] += 1;
        }
    }
}

macro_rules! campaigns {
    ($($name:ident: write $write:literal, erase $erase:literal, read $read:literal, checked $checked:literal, again $again:expr, cuts $cuts:expr;)*) => {
        /// Cuts of the first save and of the one after, in each test.
        const CUTS: &[[usize; 2]] = &[$($cuts),*];

        $(#[test]
        fn $name() {
            let cuts = Campaign::<$write, $erase, $read>::new().run($checked, $again);
            println!("{} cuts and {} second cuts, 0 failures", cuts[0], cuts[1]);
            assert_eq!(cuts, $cuts);
        })*
    };
}

/// Second cuts at every step; otherwise that many, at steps drawn at random.
const ALL: usize = usize::MAX;

campaigns! {
    a_cut_leaves_one_state_where_words_have_1_byte_and_sectors_256: write 1, erase 256, read 1, checked false, again 2, cuts [38360, 76720];
    a_cut_leaves_one_state_where_words_have_1_byte_and_sectors_4096: write 1, erase 4096, read 1, checked false, again 2, cuts [38220, 76440];
    a_cut_leaves_one_state_where_words_have_4_bytes_and_sectors_256: write 4, erase 256, read 1, checked false, again 4, cuts [9716, 38864];
    a_cut_leaves_one_state_where_words_have_4_bytes_and_sectors_4096: write 4, erase 4096, read 4, checked false, again 4, cuts [9576, 38304];
    a_cut_leaves_one_state_where_words_have_8_bytes_and_sectors_256: write 8, erase 256, read 1, checked false, again 8, cuts [4956, 39648];
    a_cut_leaves_one_state_where_words_have_8_bytes_and_sectors_4096: write 8, erase 4096, read 8, checked false, again 8, cuts [4816, 38528];
    a_cut_leaves_one_state_where_words_have_16_bytes_and_sectors_256: write 16, erase 256, read 4, checked false, again ALL, cuts [2576, 236992];
    a_cut_leaves_one_state_where_words_have_16_bytes_and_sectors_4096: write 16, erase 4096, read 1, checked false, again ALL, cuts [2436, 211932];
    a_cut_leaves_one_state_where_words_have_32_bytes_and_sectors_256: write 32, erase 256, read 1, checked false, again ALL, cuts [1372, 67228];
    a_cut_leaves_one_state_where_words_have_32_bytes_and_sectors_4096: write 32, erase 4096, read 32, checked false, again ALL, cuts [1232, 54208];
    a_cut_leaves_one_state_where_the_flash_checks_words_of_8_bytes: write 8, erase 4096, read 1, checked true, again 8, cuts [4816, 38528];
    a_cut_leaves_one_state_where_the_flash_checks_words_of_32_bytes: write 32, erase 256, read 1, checked true, again ALL, cuts [1372, 67228];
    a_cut_leaves_one_state_where_no_size_is_a_power_of_two: write 12, erase 300, read 6, checked false, again 8, cuts [3332, 26656];
    a_cut_leaves_one_state_where_words_fill_the_buffer: write 256, erase 1024, read 256, checked false, again ALL, cuts [252, 2268];
}

#[test]
fn the_documents_state_how_many_cuts_are_tested() {
    let [first, second] = [0, 1].map(|i| CUTS.iter().map(|cuts| cuts[i]).sum::<usize>());
    let embedded = include_str!("../../docs/EMBEDDED.md");
    let readme = include_str!("../../README.md");
    assert!(
        embedded.contains(&format!("{} cuts", grouped(first))),
        "{first}"
    );
    assert!(
        embedded.contains(&format!("{} second ones", grouped(second))),
        "{second}"
    );
    assert!(readme.contains(&format!("{} power cuts", grouped(first + second))));
}

#[test]
fn the_document_states_what_the_demo_takes() {
    let demo = AlignedCopy::of(include_bytes!("../../demo/demo.bttt"));
    let plan = MemoryPlan::of_blob(demo.bytes(), Batch::ONE).unwrap();
    let slot = Store::<Nor<4, 4096, 1>>::slot_for(plan.snapshot_bytes());
    let row = format!(
        "{} bytes of snapshot, two slots of {} KiB",
        grouped(plan.snapshot_bytes()),
        slot / 1024
    );
    assert!(
        include_str!("../../docs/EMBEDDED.md").contains(&row),
        "{row}"
    );
}

/// With a comma before each three digits.
fn grouped(n: usize) -> String {
    match n {
        0..1000 => n.to_string(),
        _ => format!("{},{:03}", grouped(n / 1000), n % 1000),
    }
}
