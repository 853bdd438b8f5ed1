// uses: enable_cooperative
// A square of 16 x 16 is four cooperative matrices of 8 x 8: Apple, lavapipe.

struct Left {
    top_left: coop_mat8x8<Element, A>,
    top_right: coop_mat8x8<Element, A>,
    bottom_left: coop_mat8x8<Element, A>,
    bottom_right: coop_mat8x8<Element, A>,
}

struct Right {
    top_left: coop_mat8x8<Element, B>,
    top_right: coop_mat8x8<Element, B>,
    bottom_left: coop_mat8x8<Element, B>,
    bottom_right: coop_mat8x8<Element, B>,
}

struct Square {
    top_left: coop_mat8x8<f32, C>,
    top_right: coop_mat8x8<f32, C>,
    bottom_left: coop_mat8x8<f32, C>,
    bottom_right: coop_mat8x8<f32, C>,
}

// a_tile's rows, row-major
fn load_left(at: u32) -> Left {
    let below = at + 8u * STRIDE;
    return Left(
        coopLoadT<coop_mat8x8<Element, A>>(&a_tile[at], STRIDE),
        coopLoadT<coop_mat8x8<Element, A>>(&a_tile[at + 8u], STRIDE),
        coopLoadT<coop_mat8x8<Element, A>>(&a_tile[below], STRIDE),
        coopLoadT<coop_mat8x8<Element, A>>(&a_tile[below + 8u], STRIDE),
    );
}

// b_tile's rows are the columns of b^T
fn load_right(at: u32) -> Right {
    let beside = at + 8u * STRIDE;
    return Right(
        coopLoad<coop_mat8x8<Element, B>>(&b_tile[at], STRIDE),
        coopLoad<coop_mat8x8<Element, B>>(&b_tile[beside], STRIDE),
        coopLoad<coop_mat8x8<Element, B>>(&b_tile[at + 8u], STRIDE),
        coopLoad<coop_mat8x8<Element, B>>(&b_tile[beside + 8u], STRIDE),
    );
}

fn multiply_add(left: Left, right: Right, sums: Square) -> Square {
    let top_left = coopMultiplyAdd(left.top_left, right.top_left, sums.top_left);
    let top_right = coopMultiplyAdd(left.top_left, right.top_right, sums.top_right);
    let bottom_left = coopMultiplyAdd(left.bottom_left, right.top_left, sums.bottom_left);
    let bottom_right = coopMultiplyAdd(left.bottom_left, right.top_right, sums.bottom_right);
    return Square(
        coopMultiplyAdd(left.top_right, right.bottom_left, top_left),
        coopMultiplyAdd(left.top_right, right.bottom_right, top_right),
        coopMultiplyAdd(left.bottom_right, right.bottom_left, bottom_left),
        coopMultiplyAdd(left.bottom_right, right.bottom_right, bottom_right),
    );
}

fn load_square(at: u32) -> Square {
    let below = at + 8u * SQUARE;
    return Square(
        coopLoadT<coop_mat8x8<f32, C>>(&patches[at], SQUARE),
        coopLoadT<coop_mat8x8<f32, C>>(&patches[at + 8u], SQUARE),
        coopLoadT<coop_mat8x8<f32, C>>(&patches[below], SQUARE),
        coopLoadT<coop_mat8x8<f32, C>>(&patches[below + 8u], SQUARE),
    );
}

fn store_square(sums: Square, at: u32) {
    let below = at + 8u * SQUARE;
    coopStoreT(sums.top_left, &patches[at], SQUARE);
    coopStoreT(sums.top_right, &patches[at + 8u], SQUARE);
    coopStoreT(sums.bottom_left, &patches[below], SQUARE);
    coopStoreT(sums.bottom_right, &patches[below + 8u], SQUARE);
}
