//! The program: nothing yet but a door into the library.

fn main() {}
