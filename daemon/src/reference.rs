//! Generated sections of the documents.
//!
//! Owns the comparison of a section with what the code says, and its renewal.

use std::fs;
use std::path::Path;

const BEGIN: &str = "<!-- generated: begin -->\n";
const END: &str = "<!-- generated: end -->";

/// Asserts that the generated section of a document, a path from the workspace's root, is `expected`.
/// With `INGLE_UPDATE_DOCS` set it is written anew instead.
pub(crate) fn assert_generated(document: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document);
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    let expected = format!("\n{}\n", expected.trim_end_matches('\n').to_owned() + "\n");
    if found == expected {
        return;
    }
    if std::env::var_os("INGLE_UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
        return;
    }
    let differs = expected.lines().zip(found.lines()).find(|(ours, theirs)| ours != theirs);
    panic!(
        "{document} is not what the code says (first difference: {differs:?}); run \
         `INGLE_UPDATE_DOCS=1 cargo test -p ingled reference` and commit it"
    );
}
