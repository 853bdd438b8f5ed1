//! The program's allocator: the system's, with a bound on what a stranger's code may take.
//!
//! A chat template is a program. Its steps and its output are counted, but one expression can double a text again and again (`x ~ x`),
//! for which the engine has no bound. So while a template runs, what its thread allocates is counted, and beyond the bound the whole
//! program ends with a message: nothing in between can take the failure of an allocation. A program that uses this library and wants
//! the bound installs [`Bounded`] as its `#[global_allocator]`, as `graftling` does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counted while a template runs.
pub struct Bounded;

#[derive(Clone, Copy)]
struct Budget {
    /// Bytes that may still be taken.
    left: isize,
    /// What to say when that is too little.
    message: &'static str,
}

thread_local! {
    static BUDGET: Cell<Option<Budget>> = const { Cell::new(None) };
}

/// Runs `work`. If it holds more than `most` bytes at a time, the program ends with `message` and exit code 2.
pub(crate) fn bounded<T>(most: usize, message: &'static str, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Budget>);
    impl Drop for Restore {
        fn drop(&mut self) {
            BUDGET.set(self.0);
        }
    }
    let left = isize::try_from(most).unwrap_or(isize::MAX);
    let _restore = Restore(BUDGET.replace(Some(Budget { left, message })));
    work()
}

fn take(bytes: isize) {
    // A thread that ends has no budget any more.
    let _ = BUDGET.try_with(|cell| {
        let Some(budget) = cell.get() else { return };
        let left = budget.left.saturating_sub(bytes);
        cell.set((left >= 0).then_some(Budget { left, ..budget }));
        if left < 0 {
            // The budget is gone by now, so this may allocate.
            crate::terminal::say(budget.message);
            std::process::exit(2);
        }
    });
}

// SAFETY: every call goes to the system's allocator unchanged; counting does not allocate, unwind or touch the memory.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        take(size as isize - layout.size() as isize);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        take(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
}
