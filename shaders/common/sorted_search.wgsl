// Where a number stands among strictly increasing ones; the kernel has them as `chosen`.

// The index of `wanted` in chosen[0 .. count], or `count` if it is not there.
fn index_among_chosen(wanted: u32, count: u32) -> u32 {
    // The first number that is not below `wanted` lies in low ..= high.
    var low = 0u;
    var high = count;
    while low < high {
        let middle = (low + high) / 2u;
        if chosen[middle] < wanted {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    var found = count;
    if low < count {
        if chosen[low] == wanted {
            found = low;
        }
    }
    return found;
}
