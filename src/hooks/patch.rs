//! Which files a patch in the `*** Begin Patch` form writes, by its headers.

use std::path::PathBuf;

const BEGIN: &str = "*** Begin Patch";
const HEADERS: [&str; 4] = ["*** Add File:", "*** Update File:", "*** Delete File:", "*** Move to:"];

/// The files that are named in the patch, wherever in the text it begins; none if there is no patch.
pub(super) fn targets(text: &str) -> Vec<PathBuf> {
    let Some((_, patch)) = text.split_once(BEGIN) else { return Vec::new() };
    let names = patch.lines().filter_map(|line| HEADERS.iter().find_map(|header| line.strip_prefix(header)));
    names.map(str::trim).filter(|name| !name.is_empty()).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_of_a_patch_name_its_files_and_its_lines_do_not() {
        let text = "apply_patch <<'EOF'\n*** Begin Patch\n*** Update File: src/a b.rs\n*** Move to: src/c.rs\n@@\n-x\n\
                    +*** Add File: not/this.rs\n*** Add File: d.rs\n+y\n*** Delete File: e.rs\n*** End Patch\nEOF\n";
        let named = ["src/a b.rs", "src/c.rs", "d.rs", "e.rs"].map(PathBuf::from);
        assert_eq!(targets(text), named);
        assert!(targets("*** Update File: a.rs").is_empty(), "no patch begins here");
    }
}
