//! Pagination of lists.
//!
//! Owns the cursor: opaque to hosts, an offset into the list for us. A list may change between two
//! pages; an entry can then appear twice or not at all, as in any such pagination.

use rmcp::ErrorData;
use rmcp::model::PaginatedRequestParams;

use crate::limits;

/// The requested page, and the cursor of the next one.
///
/// # Errors
/// A cursor that is not ours.
pub(super) fn page<T>(
    all: Vec<T>,
    request: Option<PaginatedRequestParams>,
) -> Result<(Vec<T>, Option<String>), ErrorData> {
    let start = match request.and_then(|request| request.cursor) {
        None => 0,
        Some(cursor) => offset(&cursor).ok_or_else(|| {
            let message = "`cursor` is not a cursor of this server; list from the start again";
            ErrorData::invalid_params(message, None)
        })?,
    };
    let end = start.saturating_add(limits::MCP_PAGE);
    let next = (end < all.len()).then(|| format!("at-{end}"));
    Ok((all.into_iter().skip(start).take(limits::MCP_PAGE).collect(), next))
}

fn offset(cursor: &str) -> Option<usize> {
    cursor.strip_prefix("at-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_complete_and_bad_cursors_refused() {
        let all: Vec<usize> = (0..limits::MCP_PAGE * 2 + 1).collect();
        let (mut seen, mut cursor) = (Vec::new(), None);
        for expected in [limits::MCP_PAGE, limits::MCP_PAGE, 1] {
            let request = PaginatedRequestParams::default().with_cursor(cursor);
            let (page, next) = page(all.clone(), Some(request)).unwrap();
            assert_eq!(page.len(), expected);
            seen.extend(page);
            cursor = next;
        }
        assert_eq!((seen, cursor), (all, None));
        for foreign in ["", "7", "at-", "at-x", "at--1"] {
            let request = PaginatedRequestParams::default().with_cursor(Some(foreign.to_owned()));
            page(vec![1], Some(request)).unwrap_err();
        }
    }
}
