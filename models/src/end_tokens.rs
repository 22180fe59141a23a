//! Texts of special tokens that end an answer, for files whose keys name only some of them: a chat model's turns end
//! with one token, its documents with another, and many files state but one.

const END_TEXTS: [&str; 9] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|end|>",
    "<end_of_turn>",
    "<EOT>",
    "<|END_OF_TURN_TOKEN|>",
];

/// Whether a special token of this text ends an answer.
pub(crate) fn ends_answer(text: &str) -> bool {
    END_TEXTS.contains(&text)
}
