//! The API's description is a file in the repository, so that authors and reviewers see each change of the
//! API.

use crate::support::Database;

#[test]
fn the_description_is_the_committed_one() {
    let database = Database::new();
    let generated = database.run(&["openapi"]);
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let committed = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        generated == committed,
        "the API has changed: `cargo run -- openapi > docs/openapi.json`, then read the diff"
    );
}
