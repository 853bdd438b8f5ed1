//! The allocator of this test binary: counts what is live, and the most that was, over all threads.

use graftling::allocator::Bounded;
use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// No test may take more: an input that asks for it ends the process before the machine suffers. The harness has written the input
/// to a file by then.
const MOST: usize = 3 << 30;

pub struct Counting;

/// The input that is being read, for the message.
pub static NUMBER: AtomicU64 = AtomicU64::new(0);
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the program's allocator unchanged, or is refused as the trait allows; the counters do not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed).saturating_add(layout.size());
        if live > MOST {
            LIVE.fetch_sub(layout.size(), Relaxed);
            eprintln!("input {} asks for more than {MOST} bytes", NUMBER.load(Relaxed));
            return std::ptr::null_mut();
        }
        PEAK.fetch_max(live, Relaxed);
        unsafe { Bounded.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { Bounded.dealloc(pointer, layout) }
    }
}

/// The largest number of bytes that were live at once in `work`, beyond those before it.
pub fn peak_bytes<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let done = work();
    (done, PEAK.load(Relaxed).saturating_sub(before))
}
