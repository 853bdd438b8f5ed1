// Eight numbers that follow each other.

struct Eight {
    near: vec4f, // the first four
    far: vec4f,
}
