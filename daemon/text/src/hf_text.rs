//! Text models from Hugging Face and MLX folders: `tokenizer.json` and its companion files.
//!
//! Owns the contents of each file, and their precedence. Does not know weights or architectures.
//! Sources: `tokenization_utils_base.py` and `configuration_utils.py` of transformers,
//! `tokenizer_utils.py` of mlx-lm.
//!
//! A continuation keeps the space at the beginning of its first token, as in llama.cpp and in
//! incremental detokenizers in general: `Once upon` continues with ` a time`. Only `decode`, whose ids
//! are a whole text, drops the space that encoding put before it.

mod affixes;
mod pieces;
mod settings;
#[cfg(test)]
mod tests;
mod tokenizer;

use std::path::Path;
use std::sync::Arc;

use super::chat_template::ChatTemplate;
use super::gguf_vocab::END_NAMES;
use super::{FimTokens, TextError, TextModel};
use settings::Settings;
use tokenizer::HfTokenizer;

/// Builds the text model of a model folder.
///
/// Blocks while it reads; the largest tokenizers take about a second.
///
/// # Errors
/// [`TextError::InvalidVocabulary`] with the file and its problem; [`TextError::Unsupported`] for a folder
/// whose only tokenizer is of another kind.
pub fn text_model(folder: &Path) -> Result<TextModel, TextError> {
    let file = folder.join(settings::TOKENIZER);
    let Some(json) = settings::tokenizer_bytes(folder)? else { return Err(absent(folder)) };
    let settings = Settings::read(folder)?;
    let tokenizer = HfTokenizer::new(&json, &settings.added)
        .map_err(|problem| TextError::InvalidVocabulary { file, problem })?;
    drop(json);

    // Tokens after the text belong to encoders or to training.
    let prefix = match tokenizer.affixes().prefix.as_slice() {
        &[one] => Some(one),
        _ => None,
    };
    let bos = settings.bos.as_deref().and_then(|name| tokenizer.id(name)).or(prefix);
    let eos = ends(&settings, &tokenizer);
    // The names that a template may write come from the configuration.
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    let chat_template = settings.chat_template.as_ref().map(|source| {
        Arc::new(ChatTemplate::new(source, &name(&settings.bos), &name(&settings.eos)))
    });
    let fim = FimTokens::find(|name| tokenizer.id(name));
    Ok(TextModel {
        add_bos: bos.is_some() && settings.add_bos.unwrap_or(prefix.is_some()),
        tokenizer: Arc::new(tokenizer),
        chat_template,
        bos: prefix.or(bos),
        eos,
        fim,
    })
}

/// The error for a folder without `tokenizer.json`.
fn absent(folder: &Path) -> TextError {
    let has = |name: &str| folder.join(name).exists();
    let convert = "open it with transformers' AutoTokenizer, call save_pretrained, and put the \
                   tokenizer.json that it writes here, or pull a conversion of the model that has \
                   one";
    if has("tokenizer.model") {
        let problem = format!(
            "is a SentencePiece file, which is not supported without a tokenizer.json; {convert}"
        );
        return TextError::Unsupported { file: folder.join("tokenizer.model"), problem };
    }
    if has("vocab.json") || has("vocab.txt") || has("tekken.json") {
        let problem = format!("the folder has a tokenizer of an old kind; {convert}");
        return TextError::Unsupported { file: folder.to_owned(), problem };
    }
    let problem = "the folder has no tokenizer.json; pull the model again with all of its files";
    TextError::InvalidVocabulary { file: folder.to_owned(), problem: problem.to_owned() }
}

/// The tokens that end a generation: those in the files, or else those with known names.
fn ends(settings: &Settings, tokenizer: &HfTokenizer) -> Vec<u32> {
    use super::tokenizer::Tokenizer as _;
    let named = settings.eos.as_deref().and_then(|name| tokenizer.id(name));
    let mut ends: Vec<u32> = settings.eos_ids.iter().copied().chain(named).collect();
    // Some configurations contain ids of a padded vocabulary, or -1 for none.
    ends.retain(|id| (*id as usize) < tokenizer.vocab_size());
    if ends.is_empty() {
        let specials = tokenizer.specials().into_iter();
        ends.extend(specials.filter(|(name, _)| END_NAMES.contains(&&**name)).map(|(_, id)| id));
    }
    ends.sort_unstable();
    ends.dedup();
    ends
}
