//! Affixes: the special tokens that the post-processor of a `tokenizer.json` puts around a text.
//!
//! Owns the kinds of post-processors and their keys. Does not know vocabularies.

use serde_json::Value;

/// Maximum nesting of sequences.
const MAX_DEPTH: usize = 8;

/// The tokens around a single text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Affixes {
    /// Before the text.
    pub(super) prefix: Vec<u32>,
    /// After the text.
    pub(super) suffix: Vec<u32>,
}

impl Affixes {
    /// Parses the `post_processor`. An unknown kind gives no affixes.
    pub(super) fn read(processor: &Value) -> Self {
        Self::at(processor, 0).unwrap_or_default()
    }

    fn at(processor: &Value, depth: usize) -> Option<Self> {
        match processor["type"].as_str()? {
            "Sequence" if depth < MAX_DEPTH => {
                let processors = processor["processors"].as_array()?;
                processors.iter().find_map(|processor| Self::at(processor, depth + 1))
            }
            "TemplateProcessing" => template(processor),
            "RobertaProcessing" | "BertProcessing" => Some(Self {
                prefix: vec![id(&processor["cls"][1])?],
                suffix: vec![id(&processor["sep"][1])?],
            }),
            _ => None,
        }
    }
}

fn template(processor: &Value) -> Option<Affixes> {
    let mut affixes = Affixes::default();
    let mut is_before = true;
    for piece in processor["single"].as_array()? {
        let Some(name) = piece["SpecialToken"]["id"].as_str() else {
            is_before = false;
            continue;
        };
        let ids = processor["special_tokens"][name]["ids"].as_array()?;
        let side = if is_before { &mut affixes.prefix } else { &mut affixes.suffix };
        for one in ids {
            side.push(id(one)?);
        }
    }
    // A template without the text would be none.
    (!is_before).then_some(affixes)
}

fn id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn affixes_come_from_every_kind() {
        let token = |name: &str| json!({ "SpecialToken": { "id": name, "type_id": 0 } });
        let template = |single: Value| {
            json!({ "type": "TemplateProcessing", "single": single,
            "special_tokens": { "[CLS]": { "ids": [101] }, "[SEP]": { "ids": [102, 103] } } })
        };
        let text = || json!({ "Sequence": { "id": "A", "type_id": 0 } });
        let bert = || template(json!([token("[CLS]"), text(), token("[SEP]")]));
        for (processor, prefix, suffix) in [
            (bert(), vec![101], vec![102, 103]),
            (
                json!({ "type": "Sequence", "processors": [{ "type": "ByteLevel" }, bert()] }),
                vec![101],
                vec![102, 103],
            ),
            (template(json!([token("[CLS]"), text()])), vec![101], vec![]),
            (template(json!([token("[CLS]")])), vec![], vec![]),
            (template(json!([token("[NONE]"), text()])), vec![], vec![]),
            (
                json!({ "type": "BertProcessing", "sep": ["b", 2], "cls": ["a", 1] }),
                vec![1],
                vec![2],
            ),
            (json!({ "type": "ByteLevel" }), vec![], vec![]),
            (json!(null), vec![], vec![]),
        ] {
            assert_eq!(Affixes::read(&processor), Affixes { prefix, suffix }, "{processor}");
        }
    }
}
