//! The program's allocator: the system's, with a bound on what a stranger's code may take.
//!
//! A chat template is a program. Its steps and its output are counted, but one expression can double a text again and again (`x ~ x`),
//! for which the engine has no bound; nor has a tokenizer whose normalisers write more than they read. So what a thread allocates that
//! runs such a program is counted, and beyond the bound the thread stands still for ever and its caller has an error (`src/confined.rs`
//! says why). A program that uses this library and wants the bound installs [`Bounded`] as its `#[global_allocator]`, as `graftling`
//! does.

use std::alloc::{GlobalAlloc, Layout, System};

use crate::confined::count;

/// The system's allocator, counted on threads that run a stranger's program.
pub struct Bounded;

// SAFETY: every call goes to the system's allocator unchanged, or never returns; counting does not allocate, unwind or touch the memory.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
}
