// uses: matmul_operands
// What matmul_tiled copies: pieces of a and b of 8 elements that follow each other in memory, by words of 4. A piece is 8 steps of k of one line
// (row of a, column of b), or where BY_K 8 lines of one step. Lines past the end repeat the last one; their results are not stored.

// Where an invocation finds its pieces.
struct Path {
    first: u32, // word of the first piece, but for k
    next: u32,  // from one of its pieces to the next
    last: u32,  // the furthest that a piece may begin
    k: u32,     // words from one step of k to the next, 4 of them where k lies along rows
    end: u32,   // the furthest that its second word may be
}

// Where k lies along rows of so many words, of which there are `lines`.
fn path_along_k(start: u32, row: u32, lines: u32, line: u32, step: u32, next: vec2u) -> Path {
    let own = start + step / 4u;
    return Path(own + line * row, next.x * row, own + (lines - 1u) * row, 1u, 0xffffffffu);
}

// Where each row of so many words, which has `lines` elements, is one step of k. The second word of a piece may be past the end of its row.
fn path_by_k(start: u32, row: u32, lines: u32, line: u32, step: u32, next: vec2u) -> Path {
    let near = min(line, lines - 4u) / 4u;
    return Path(start + near + step * row, next.y * row, 0xffffffffu, 4u * row, start + steps_end() * row - 1u);
}

fn path_of_a(i: u32, step: u32, next: vec2u) -> Path {
    if A_BY_K {
        return path_by_k(a_first() / 4u, params.a_row / 4u, rows_end(), i, step, next);
    }
    return path_along_k(a_first() / 4u, params.a_row / 4u, rows_end(), i, step, next);
}

fn path_of_b(j: u32, step: u32, next: vec2u) -> Path {
    if B_BY_K {
        return path_by_k(b_first() / 4u, params.n / 4u, params.n, j, step, next);
    }
    return path_along_k(b_first() / 4u, params.k / 4u, params.n, j, step, next);
}

// The word where a piece begins in the tile that begins at step k.
fn word_of_piece(path: Path, piece: u32, k: u32) -> u32 {
    return min(path.first + piece * path.next, path.last) + k / 4u * path.k;
}

fn a_piece(path: Path, piece: u32, k: u32) -> Eight {
    let at = word_of_piece(path, piece, k);
    return Eight(load_a4(at), load_a4(min(at + 1u, path.end)));
}

fn b_piece(path: Path, piece: u32, k: u32) -> Eight {
    let at = word_of_piece(path, piece, k);
    return load_weight8(at, min(at + 1u, path.end));
}

// Word of element (line, k) where both may be past the end: of the last one then.
fn word_inside(start: u32, row: u32, lines: u32, line: u32, k: u32, by_k: bool) -> u32 {
    if by_k {
        return (start + min(k, steps_end() - 1u) * row + min(line, lines - 4u)) / 4u;
    }
    return (start + min(line, lines - 1u) * row + min(k, steps_end() - 4u)) / 4u;
}

// Four steps of row i, or four rows of one step; zeros past the end of k.
fn a_four(i: u32, k: u32) -> vec4f {
    return select(vec4f(), load_a4(word_inside(a_first(), params.a_row, rows_end(), i, k, A_BY_K)), k < steps_end());
}

fn b_four(j: u32, k: u32) -> vec4f {
    let row = select(params.k, params.n, B_BY_K);
    return load_weight4(word_inside(b_first(), row, params.n, j, k, B_BY_K));
}

// From the first four elements of a piece to the others: (lines, steps).
fn ahead_in_piece(by_k: bool) -> vec2u {
    if by_k {
        return vec2u(4u, 0u);
    }
    return vec2u(0u, 4u);
}
