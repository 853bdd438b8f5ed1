//! Runs a stranger's program within bounds of time, memory and stack.
//!
//! A chat template is a program, and so are the rules of a tokenizer: normalisers, regular expressions, post-processors, decoders. They
//! come with a model, and the engines that run them have no bound that holds (one filter call may take for ever, one expression may
//! nest a list deeper than any stack). So they run on a thread of their own, with a stack of known size, while the caller waits:
//!
//! * *time*: the caller waits no longer than the deadline;
//! * *memory*: the program's allocator ([`crate::allocator`]) counts what the thread holds;
//! * *stack*: the allocator looks how much is left, and on Unix a fault in the stack's guard pages is told from other faults.
//!
//! Neither a failing allocation nor an overflown stack can be unwound, and a thread cannot be ended from outside. So a thread that
//! exceeds a bound is left standing for ever where it is (past a deadline: at its next allocation), and the caller has one error. It
//! holds no more than its bounds allow, and ends with the process, which in the command line is at once.
//!
//! What the regex engine, which is written in C, allocates is not counted. It has bounds of its own (depth, repetitions, tries at one
//! place, the matcher's stack); bad patterns over texts of 2 and 8 MB took at most 250 MiB beside what is counted.
//!
//! Without the allocator of [`crate::allocator`] only time and, on Unix, stack are bounded.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicIsize, AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use crate::caught::caught;

/// Stack of a confined thread, in bytes. Known templates and tokenizers need less than a hundredth; memory is taken as it is used.
const STACK: usize = 64 << 20;
/// Bytes of the stack at which no allocation is begun any more: the system's allocator must never be what overflows it, with a lock held.
/// Also how near to the stack's end an address counts as its end, which is known to some pages only.
const MARGIN: usize = 1 << 20;
/// How often the caller looks whether the thread stands still. A result wakes it at once.
const SLICE: Duration = Duration::from_millis(20);

/// What a piece of work may take.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub time: Duration,
    /// What sound work of this size takes at most; many pieces that each take longer are too long together.
    pub usual: Duration,
    /// Bytes held at a time.
    pub memory: usize,
}

impl Limits {
    /// So many seconds for any work, and for work on `size` bytes a second more for each `bytes_a_second`.
    pub(crate) fn new(seconds: u64, size: usize, bytes_a_second: usize, memory: usize) -> Self {
        let for_size = Duration::from_millis((size as u64).saturating_mul(1000) / bytes_a_second as u64);
        let (any, usual) = (Duration::from_secs(seconds), Duration::from_millis(50));
        Self { time: any + for_size, usual: usual + for_size, memory }
    }
}

/// Why a piece of work did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    Time(Duration),
    Memory(usize),
    Stack,
    /// It panicked, with this message.
    Panic(String),
}

impl fmt::Display for Stopped {
    /// What it did; the message of a panic.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => write!(f, "took longer than {} s and was stopped", time.as_secs()),
            Self::Memory(bytes) => write!(f, "needed more than {} MiB of memory and was stopped", bytes >> 20),
            Self::Stack => write!(f, "nests too deeply and was stopped"),
            Self::Panic(message) => f.write_str(message),
        }
    }
}

/// A stranger's program: once stopped, it is not run again, so that a caller which tries another way does not wait again. Nor may it
/// take nearly its whole time for each of thousands of records.
pub(crate) struct Confinement {
    stopped: OnceLock<Stopped>,
    /// How much longer than usual all pieces of work may take together.
    patience: Duration,
    /// What is left of it, in microseconds. Work that is faster than usual restores it.
    left: AtomicI64,
}

impl Default for Confinement {
    fn default() -> Self {
        Self::with_patience(Duration::from_secs(30))
    }
}

impl Confinement {
    fn with_patience(patience: Duration) -> Self {
        Self { stopped: OnceLock::new(), patience, left: AtomicI64::new(patience.as_micros() as i64) }
    }

    /// As [`confined`].
    ///
    /// # Errors
    /// Also if this program was stopped before.
    pub(crate) fn run<T: Send + 'static>(&self, limits: Limits, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Stopped> {
        if let Some(stopped) = self.stopped.get() {
            return Err(stopped.clone());
        }
        let since = Instant::now();
        let mut done = confined(limits, work);
        // Not longer than the deadline: the process may have been suspended.
        let took = since.elapsed().min(limits.time).as_micros() as i64;
        let most = self.patience.as_micros() as i64;
        let rest = |left: i64| (left + limits.usual.as_micros() as i64 - took).min(most);
        let before = self.left.fetch_update(Relaxed, Relaxed, |left| Some(rest(left))).unwrap_or(most);
        if done.is_ok() && rest(before) < 0 {
            done = Err(Stopped::Time(self.patience));
        }
        if let Err(stopped) = &done
            && !matches!(stopped, Stopped::Panic(_))
        {
            let _ = self.stopped.set(stopped.clone()); // another thread may have been first
        }
        done
    }

    /// The bound that this program has exceeded, if any.
    pub(crate) fn stopped(&self) -> Option<&Stopped> {
        self.stopped.get()
    }
}

/// Runs `work` on this thread's confined companion. Work inside work shares the bounds of the outer.
///
/// # Errors
/// The bound that it exceeded, or the message of its panic.
pub(crate) fn confined<T: Send + 'static>(limits: Limits, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Stopped> {
    if WARD.get().is_some() {
        return caught(work).map_err(Stopped::Panic);
    }
    let companion = match COMPANION.take() {
        Some(companion) => companion,
        None => Companion::start().map_err(|cause| Stopped::Panic(format!("a thread cannot be started: {cause}")))?,
    };
    let ward = companion.ward;
    let (sender, results) = mpsc::sync_channel(1);
    let job = move || {
        ward.left.store(isize::try_from(limits.memory).unwrap_or(isize::MAX), Relaxed);
        ward.counting.store(true, Relaxed);
        let done = caught(work);
        ward.counting.store(false, Relaxed);
        let _ = sender.send(done); // nobody waits any more: the deadline has passed
    };
    if companion.jobs.send(Box::new(job)).is_err() {
        return Err(Stopped::Panic("its thread has ended".to_string()));
    }
    let mut waited = Duration::ZERO;
    loop {
        let since = Instant::now();
        match results.recv_timeout(SLICE) {
            Ok(done) => {
                COMPANION.set(Some(companion));
                return done.map_err(Stopped::Panic);
            }
            Err(RecvTimeoutError::Disconnected) => return Err(Stopped::Panic("its thread has ended".to_string())),
            Err(RecvTimeoutError::Timeout) => {}
        }
        // While the process was suspended (Ctrl-Z, a laptop asleep) the work did not go on either.
        waited += since.elapsed().min(2 * SLICE);
        match ward.fate.load(Relaxed) {
            OUT_OF_MEMORY => return Err(Stopped::Memory(limits.memory)),
            OUT_OF_STACK => return Err(Stopped::Stack),
            _ if waited > limits.time => {
                ward.fate.store(ABANDONED, Relaxed);
                return Err(Stopped::Time(limits.time));
            }
            _ => {}
        }
    }
}

/// The thread that works for this one.
struct Companion {
    jobs: SyncSender<Box<dyn FnOnce() + Send>>,
    ward: &'static Ward,
}

thread_local! {
    static COMPANION: RefCell<Option<Companion>> = const { RefCell::new(None) };
    /// On a companion: what is known of it.
    static WARD: Cell<Option<&'static Ward>> = const { Cell::new(None) };
}

impl Companion {
    fn start() -> std::io::Result<Self> {
        // Some bytes for each thread that ever asks; a thread that stands still for ever looks at them for ever.
        let ward: &'static Ward = Box::leak(Box::default());
        let (jobs, queue) = mpsc::sync_channel::<Box<dyn FnOnce() + Send>>(1);
        overflow::watch();
        thread::Builder::new().name("confined".to_string()).stack_size(STACK).spawn(move || {
            ward.floor.store(here().saturating_sub(STACK), Relaxed);
            WARD.set(Some(ward));
            queue.into_iter().for_each(|job| job());
        })?;
        Ok(Self { jobs, ward })
    }
}

const OUT_OF_MEMORY: u8 = 1;
const OUT_OF_STACK: u8 = 2;
const ABANDONED: u8 = 3;

/// What the caller, the allocator and the fault handler know of a confined thread.
#[derive(Default)]
struct Ward {
    /// Whether a piece of work runs.
    counting: AtomicBool,
    /// Bytes that it may still take.
    left: AtomicIsize,
    /// Where its stack ends, about.
    floor: AtomicUsize,
    /// 0, or why it stands still.
    fate: AtomicU8,
}

impl Ward {
    /// Leaves this thread standing for ever. Neither allocates nor takes a lock: a signal handler may call it.
    fn stand_still(&self, fate: u8) -> ! {
        self.fate.store(fate, Relaxed);
        loop {
            thread::sleep(Duration::from_secs(3600));
        }
    }
}

/// For the allocator: this thread takes so many bytes, or gives them back.
pub(crate) fn count(bytes: isize) {
    // A thread that ends is confined no more.
    let Ok(Some(ward)) = WARD.try_with(Cell::get) else { return };
    if !ward.counting.load(Relaxed) {
        return;
    }
    if ward.fate.load(Relaxed) == ABANDONED {
        ward.stand_still(ABANDONED);
    }
    if here() < ward.floor.load(Relaxed) + 2 * MARGIN {
        ward.stand_still(OUT_OF_STACK);
    }
    if ward.left.fetch_sub(bytes, Relaxed) < bytes {
        ward.stand_still(OUT_OF_MEMORY);
    }
}

/// An address in the stack frame of the caller, or near.
#[inline(always)]
fn here() -> usize {
    let local = 0u8;
    &raw const local as usize
}

/// Faults in the guard pages of a confined thread's stack: recursion that allocates nothing, as that which frees a list in a list.
#[cfg(unix)]
mod overflow {
    use std::cell::Cell;
    use std::ptr::{null, null_mut};
    use std::sync::OnceLock;
    use std::sync::atomic::Ordering::Relaxed;

    use super::{MARGIN, OUT_OF_STACK, WARD};

    /// macOS gives SIGBUS.
    const SIGNALS: [libc::c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];
    static BEFORE: OnceLock<[libc::sigaction; 2]> = OnceLock::new();

    /// Installs the handler, once. The standard library has given each of its threads a second stack for such handlers.
    pub(super) fn watch() {
        BEFORE.get_or_init(|| {
            SIGNALS.map(|signal| {
                // SAFETY: both structures are plain data, valid when zero; the handler is one for SA_SIGINFO, and calls nothing that is
                // not allowed in a handler.
                unsafe {
                    let (mut action, mut before): (libc::sigaction, libc::sigaction) = (std::mem::zeroed(), std::mem::zeroed());
                    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_fault;
                    action.sa_sigaction = handler as usize;
                    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                    libc::sigemptyset(&mut action.sa_mask);
                    libc::sigaction(signal, null(), &mut before);
                    libc::sigaction(signal, &action, null_mut());
                    before
                }
            })
        });
    }

    extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the system passes a valid pointer.
        let address = unsafe { (*info).si_addr() } as usize;
        if let Ok(Some(ward)) = WARD.try_with(Cell::get)
            && ward.counting.load(Relaxed)
            && address.abs_diff(ward.floor.load(Relaxed)) < MARGIN
        {
            ward.stand_still(OUT_OF_STACK);
        }
        // Any other fault is left to the handler before this one: the instruction is tried again, and faults again.
        let place = SIGNALS.iter().position(|known| *known == signal).unwrap_or(0);
        // SAFETY: a structure that the system has filled in, or one that means the default action.
        unsafe {
            let default = std::mem::zeroed();
            libc::sigaction(signal, BEFORE.get().map_or(&default, |before| &before[place]), null_mut());
        }
    }
}

#[cfg(not(unix))]
mod overflow {
    pub(super) fn watch() {}
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    const LIMITS: Limits = Limits { time: Duration::from_secs(2), usual: Duration::from_millis(20), memory: 1 << 20 };

    /// Allocates nothing.
    fn depth(level: usize) -> usize {
        let frame = black_box([level; 16]);
        if frame[3] == usize::MAX { 0 } else { depth(black_box(level + 1)) + black_box(frame)[5] }
    }

    #[test]
    fn work_has_its_result_or_what_it_exceeded() {
        assert_eq!(confined(LIMITS, || 7), Ok(7));
        assert_eq!(confined(LIMITS, || confined(LIMITS, || 8)), Ok(Ok(8)), "inside work");
        assert_eq!(confined(LIMITS, || -> u8 { panic!("no") }), Err(Stopped::Panic("no".to_string())));
        assert_eq!(confined(LIMITS, || 9), Ok(9), "after a panic");
        let endless = || while black_box(true) {};
        assert_eq!(confined(LIMITS, endless), Err(Stopped::Time(LIMITS.time)));
        assert_eq!(confined(LIMITS, || 10), Ok(10), "after a deadline");
        if cfg!(unix) {
            assert_eq!(confined(LIMITS, || depth(0)), Err(Stopped::Stack));
            assert_eq!(confined(LIMITS, || 11), Ok(11), "after an overflow");
        }
    }

    #[test]
    fn a_program_that_was_stopped_is_not_run_again() {
        let program = Confinement::default();
        let limits = Limits { time: Duration::from_millis(100), ..LIMITS };
        assert_eq!(program.run(limits, || 1), Ok(1));
        assert_eq!(program.stopped(), None);
        assert!(program.run(limits, || thread::sleep(Duration::from_secs(1000))).is_err());
        assert_eq!(program.run(limits, || 1), Err(Stopped::Time(limits.time)));
    }

    #[test]
    fn slow_work_is_too_long_together() {
        let patience = Duration::from_secs(1);
        let program = Confinement::with_patience(patience);
        assert!((0..1000).all(|_| program.run(LIMITS, || ()).is_ok()));
        let slow = || thread::sleep(Duration::from_millis(300));
        let stopped: Vec<_> = (0..20).filter_map(|_| program.run(LIMITS, slow).err()).collect();
        assert_eq!(stopped, vec![Stopped::Time(patience); stopped.len()]);
        assert!(stopped.len() >= 16, "1 s is less than four times 0.28 s: {}", stopped.len());
    }
}
