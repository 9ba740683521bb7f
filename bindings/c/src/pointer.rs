//! What C passes, as references and slices: the only module with `unsafe` blocks.
//!
//! Invariant: a pointer is followed only after everything that can be checked was: it is not null, it is aligned, its
//! length is one that an object can have, it is apart from what the session holds. That it points to as many items as
//! C says is C's promise, which the macro `given!` takes.

use crate::sampler::Sampler;
use crate::session::Session;
use crate::status::Status;
use bitttt_core::Sampler as CoreSampler;
use core::ffi::{c_char, c_void};
use core::mem::{MaybeUninit, align_of, offset_of, size_of};
use core::ops::Range;
use core::{ptr, slice};

/// Session memory starts on a multiple of as many bytes.
pub const BITTTT_ALIGN: usize = 8;

/// The part of a session's memory that does not depend on the model, in bytes; the same on every target, so that
/// `bitttt_memory_size` may be asked on one and used on another.
pub const BITTTT_SESSION_BYTES: usize = 512;

/// A pointer to something that is read.
pub(crate) struct In<T>(*const T);

/// A pointer to something that is written, and perhaps read: buffers, places for results, sessions.
pub(crate) struct InOut<T>(*mut T);

/// A pointer as a parameter of an exported function.
pub(crate) trait Given {
    /// The same, with the caller's promise.
    type Promised;

    /// Takes the caller's promise.
    ///
    /// # Safety
    /// The pointer may be followed, if it is not null, for as many items as the length beside it in the call says, for
    /// one where there is no length; until the call returns, a blob and a session's memory as long as the session is
    /// used. Nobody else writes there in this time, nor reads what the call may write. What of that can be checked is
    /// checked.
    unsafe fn given(self) -> Self::Promised;
}

impl<T> Given for *const T {
    type Promised = In<T>;

    unsafe fn given(self) -> In<T> {
        In(self)
    }
}

impl<T> Given for *mut T {
    type Promised = InOut<T>;

    unsafe fn given(self) -> InOut<T> {
        InOut(self)
    }
}

/// Opens an exported function, which is unsafe to call: its pointer parameters with the caller's promise.
macro_rules! given {
    ($($pointer:ident),+) => {
        $(
            #[allow(unused_mut)]
            // SAFETY: whoever calls an exported function promises this; the header says so.
            let mut $pointer = unsafe { $crate::pointer::Given::given($pointer) };
        )+
    };
}
pub(crate) use given;

impl<T> In<T> {
    /// As many items as C says.
    pub(crate) fn items(&self, len: usize, taken: &[Range<usize>]) -> Result<&[T], Status> {
        check(self.0, len, taken)?;
        // SAFETY: checked, and the caller promised the items for the time of the call, which `self` lives as long.
        Ok(unsafe { slice::from_raw_parts(self.0, len) })
    }

    /// The same, for what C leaves in place as long as the session is used.
    pub(crate) fn items_kept(&self, len: usize) -> Result<&'static [T], Status> {
        check(self.0, len, &[])?;
        // SAFETY: as in `items`; a blob is promised for as long as the session that holds this is used.
        Ok(unsafe { slice::from_raw_parts(self.0, len) })
    }

    /// One item, or nothing where the pointer is null.
    pub(crate) fn optional(&self) -> Result<Option<&T>, Status> {
        if self.0.is_null() {
            return Ok(None);
        }
        Ok(self.items(1, &[])?.first())
    }
}

impl In<c_char> {
    /// As many bytes of text as C says.
    pub(crate) fn bytes(&self, len: usize, taken: &[Range<usize>]) -> Result<&[u8], Status> {
        let text = self.items(len, taken)?;
        // SAFETY: a `c_char` is a byte, signed or not.
        Ok(unsafe { slice::from_raw_parts(text.as_ptr().cast(), text.len()) })
    }
}

impl<T> InOut<T> {
    /// As many items as C says.
    pub(crate) fn items(&mut self, len: usize, taken: &[Range<usize>]) -> Result<&mut [T], Status> {
        check(self.0, len, taken)?;
        // SAFETY: checked, and the caller promised the items, which nobody else touches during the call. The
        // types that are used here (numbers) have no invalid bits.
        Ok(unsafe { slice::from_raw_parts_mut(self.0, len) })
    }

    /// The place for one result.
    pub(crate) fn place(&mut self) -> Result<&mut MaybeUninit<T>, Status> {
        check(self.0, 1, &[])?;
        // SAFETY: checked, promised by the caller, and `MaybeUninit` asks nothing of the content.
        Ok(unsafe { &mut *self.0.cast() })
    }
}

/// The addresses of a slice.
pub(crate) fn addresses<T>(items: &[T]) -> Range<usize> {
    let Range { start, end } = items.as_ptr_range();
    start.addr()..end.addr()
}

/// Everything about `len` items at `pointer` that can be known from outside.
fn check<T>(pointer: *const T, len: usize, taken: &[Range<usize>]) -> Result<(), Status> {
    if pointer.is_null() {
        return Err(Status::Null);
    }
    if !pointer.is_aligned() {
        return Err(Status::Misaligned);
    }
    let (start, bytes) = (pointer.addr(), len.checked_mul(size_of::<T>()));
    let end = bytes
        .filter(|&bytes| isize::try_from(bytes).is_ok())
        .and_then(|bytes| start.checked_add(bytes))
        .ok_or(Status::Length)?;
    if taken.iter().any(|t| start < t.end && t.start < end) {
        return Err(Status::Overlap);
    }
    Ok(())
}

impl InOut<c_void> {
    /// Memory of `len` bytes as the place of a session and the words behind it.
    pub(crate) fn session_memory(
        &mut self,
        len: usize,
        taken: &[Range<usize>],
    ) -> Result<(&'static mut MaybeUninit<Session>, &'static mut [f32]), Status> {
        const {
            assert!(size_of::<Session>() <= BITTTT_SESSION_BYTES);
            assert!(align_of::<Session>() <= BITTTT_ALIGN);
        }
        check(self.0.cast::<u8>(), len, taken)?;
        if !self.0.addr().is_multiple_of(BITTTT_ALIGN) {
            return Err(Status::Misaligned);
        }
        let bytes = len
            .checked_sub(BITTTT_SESSION_BYTES)
            .ok_or(Status::Memory)?;
        let words = self.0.wrapping_byte_add(BITTTT_SESSION_BYTES).cast();
        // SAFETY: both parts lie in the memory, which is long enough and aligned by the checks, and do not overlap. The
        // caller promised it to the session alone. Every bit pattern is an f32.
        Ok(unsafe {
            (
                &mut *self.0.cast(),
                slice::from_raw_parts_mut(words, bytes / size_of::<f32>()),
            )
        })
    }
}

/// Whether `pointer` is that of a session in the place where it was made. Reads no more than its mark.
fn check_session(pointer: *const Session) -> Result<(), Status> {
    check(pointer, 1, &[])?;
    let mark = pointer.wrapping_byte_add(offset_of!(Session, mark)).cast();
    // SAFETY: checked, the caller promised that the place may be read, and every bit pattern is a number.
    let mark: usize = unsafe { ptr::read(mark) };
    if mark != Session::mark_at(pointer.addr()) {
        return Err(Status::Session);
    }
    Ok(())
}

impl In<Session> {
    /// The session.
    pub(crate) fn session(&self) -> Result<&Session, Status> {
        check_session(self.0)?;
        // SAFETY: the mark is written by `bitttt_session_init` alone, behind a whole session, and nobody writes there
        // during the call, as the caller promised.
        Ok(unsafe { &*self.0 })
    }
}

impl InOut<Session> {
    /// The session.
    pub(crate) fn session(&mut self) -> Result<&mut Session, Status> {
        check_session(self.0)?;
        // SAFETY: as above, and nobody else reads there either.
        Ok(unsafe { &mut *self.0 })
    }
}

/// What stands in a [`Sampler`] that is initialised.
struct LiveSampler {
    mark: u64,
    sampler: CoreSampler,
}

/// Any number that memory does not hold by chance.
const SAMPLER_MARK: u64 = 0xB177_7700_5A3B_1E5D;

const _: () = assert!(size_of::<LiveSampler>() <= size_of::<Sampler>());
const _: () = assert!(align_of::<LiveSampler>() <= align_of::<Sampler>());

impl InOut<Sampler> {
    /// Writes an initialised sampler.
    pub(crate) fn start(&mut self, sampler: CoreSampler) -> Result<(), Status> {
        let place: *mut LiveSampler = self.place()?.as_mut_ptr().cast();
        let mark = SAMPLER_MARK;
        // SAFETY: a sampler's place is large enough and aligned for what lives in it, by the assertions above.
        unsafe { place.write(LiveSampler { mark, sampler }) };
        Ok(())
    }

    /// The sampler in its place.
    pub(crate) fn sampler(&mut self) -> Result<&mut CoreSampler, Status> {
        check(self.0, 1, &[])?;
        let live: *mut LiveSampler = self.0.cast();
        // SAFETY: checked, promised by the caller, fits by the assertions above; numbers have no invalid bits, and
        // numbers are all that a sampler consists of.
        let live = unsafe { &mut *live };
        if live.mark != SAMPLER_MARK {
            return Err(Status::Sampler);
        }
        Ok(&mut live.sampler)
    }
}
