// uses: row_sum
// How many rows load_balancing_loss and its gradient are of: that of all that were sent, divided by those that each row is sent to.

struct Params { experts: u32, chosen: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> sent: array<u32>;  // [experts]

// To be called by all invocations of a workgroup of 64.
fn rows_sent(lane: u32) -> f32 {
    var own = 0.0;
    for (var expert = lane; expert < params.experts; expert += 64u) {
        own += f32(sent[expert]);
    }
    return row_sum(lane, own) / f32(params.chosen);
}
