// Where a workgroup of matmul begins, as `begin` of the slot `product` says.

struct Begun {
    row: u32,   // the first row of out that a workgroup computes
    step: u32,  // the first step of k
    steps: u32, // behind the last step of k; the same for all invocations of a workgroup
}
