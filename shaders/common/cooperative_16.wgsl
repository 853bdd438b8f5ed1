// uses: enable_cooperative
// A square of 16 x 16 is one cooperative matrix: NVIDIA, AMD.

alias Left = coop_mat16x16<Element, A>;
alias Right = coop_mat16x16<Element, B>;
alias Square = coop_mat16x16<f32, C>;

// a_tile's rows, row-major
fn load_left(at: u32) -> Left {
    return coopLoadT<coop_mat16x16<Element, A>>(&a_tile[at], STRIDE);
}

// b_tile's rows are the columns of b^T
fn load_right(at: u32) -> Right {
    return coopLoad<coop_mat16x16<Element, B>>(&b_tile[at], STRIDE);
}

fn multiply_add(left: Left, right: Right, sums: Square) -> Square {
    return coopMultiplyAdd(left, right, sums);
}

fn load_square(at: u32) -> Square {
    return coopLoadT<coop_mat16x16<f32, C>>(&patches[at], SQUARE);
}

fn store_square(sums: Square, at: u32) {
    coopStoreT(sums, &patches[at], SQUARE);
}
