//! The table of statuses: the HTTP status and the exit status of each kind of error. The error types know their kind.

use crate::exit::Status;
use axum::http::StatusCode;
use resources::ErrorKind;

/// The status of an HTTP answer. 503 alone comes with `Retry-After`.
pub fn http(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Malformed => StatusCode::BAD_REQUEST,
        ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::NotFound | ErrorKind::Absent => StatusCode::NOT_FOUND,
        ErrorKind::Conflict | ErrorKind::InUse => StatusCode::CONFLICT,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::NoRoom => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Transient => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Host | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The exit status, the same for `run` and for `ctl`.
pub fn exit(kind: ErrorKind) -> Status {
    match kind {
        ErrorKind::Malformed | ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::InUse => Status::Input,
        ErrorKind::Absent | ErrorKind::Conflict => Status::Conflict,
        ErrorKind::Forbidden
        | ErrorKind::Unsupported
        | ErrorKind::NoRoom
        | ErrorKind::Transient
        | ErrorKind::Host => Status::Host,
        ErrorKind::Internal => Status::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::{exit, http};
    use resources::ErrorKind;
    use std::collections::BTreeMap;
    use std::path::Path;

    /// The word in quotes that a text begins with, but for blanks.
    fn quoted(text: &str) -> Option<&str> {
        let word = text.trim_start().strip_prefix('"')?.split('"').next()?;
        word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_').then_some(word)
    }

    /// The codes that the sources under a directory name together with their kind.
    fn codes(directory: &Path, found: &mut BTreeMap<String, ErrorKind>) {
        for entry in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                codes(&entry, found);
                continue;
            }
            let text = std::fs::read_to_string(&entry).unwrap_or_default();
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let named = text.split("ErrorKind::").skip(1).filter_map(|rest| {
                let kind = ErrorKind::ALL.into_iter().find(|kind| rest.starts_with(&format!("{kind:?},")))?;
                Some((quoted(rest.split_once(',')?.1)?, kind))
            });
            let called = [
                ("invalid(", ErrorKind::Invalid),
                ("Problem::typed(", ErrorKind::Invalid),
                ("Problem::not_found(", ErrorKind::NotFound),
                ("Problem::unavailable(", ErrorKind::Transient),
            ];
            let called = called.into_iter().flat_map(|(call, kind)| {
                text.split(call).skip(1).filter_map(move |rest| Some((quoted(rest)?, kind)))
            });
            for (code, kind) in named.chain(called) {
                let before = found.insert(code.to_owned(), kind).unwrap_or(kind);
                assert_eq!(before, kind, "{code} has two kinds, in {}", entry.display());
            }
        }
    }

    #[test]
    fn a_code_has_one_kind_and_the_documentation_has_it_there() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut found = BTreeMap::new();
        for crate_ in ["api", "vmm", "resources"] {
            codes(&top.join(crate_).join("src"), &mut found);
        }
        assert!(found.len() > 60, "{found:?}");
        let page = include_str!("../../docs/api.md");
        for (code, kind) in found {
            let row = page.lines().find(|line| line.starts_with(&format!("| `{kind}` | `"))).unwrap();
            assert!(row.contains(&format!("`{code}`")), "{code} is not among the codes of {kind}");
        }
    }

    #[test]
    fn the_documentation_has_the_table() {
        let page = include_str!("../../docs/api.md");
        for kind in ErrorKind::ALL {
            let row = format!("| `{kind}` | {} | {} |", http(kind).as_u16(), exit(kind).code());
            assert!(page.lines().any(|line| line.starts_with(&row)), "{row}");
        }
    }
}
