//! The checked-in OpenAPI document.

use std::path::Path;

/// `UPDATE_OPENAPI=1 cargo test -p dormouse-api openapi` writes it anew.
#[test]
fn the_document_that_is_checked_in_is_the_one_that_the_code_makes() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let made = dormouse_api::openapi_json();
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&file, &made).unwrap();
    }
    let checked_in = std::fs::read_to_string(&file).unwrap();
    assert!(
        checked_in == made,
        "docs/openapi.json is stale: UPDATE_OPENAPI=1 cargo test -p dormouse-api openapi"
    );
}
