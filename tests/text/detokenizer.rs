//! Pushing ids one by one gives what decoding them at once gives, in pieces that are final and whole.

use std::sync::Arc;

use steppe::text::{Detokenizer, Tokenizer};

use crate::fixtures::{corpus, demo_tokenizer, from_gguf, from_json};

/// Pushes all ids, asserting on the way that no piece ends in a character that is still incomplete.
fn in_pieces(tokenizer: &Arc<Tokenizer>, ids: &[u32]) -> String {
    let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer));
    let mut text = String::new();
    for &id in ids {
        text.push_str(&detokenizer.push(id));
    }
    text + &detokenizer.finish()
}

/// Ids whose bytes are short or are not characters by themselves: where half characters come from.
fn fragments(tokenizer: &Tokenizer) -> Vec<u32> {
    let ids = 0..tokenizer.vocab_size() as u32;
    let fragments: Vec<u32> = ids.filter(|&id| std::str::from_utf8(tokenizer.token_bytes(id)).is_err()).collect();
    assert!(fragments.len() > 100);
    fragments
}

#[test]
fn random_ids_in_pieces_equal_decoding_at_once() {
    let mut random = fastrand::Rng::with_seed(7);
    for tokenizer in [demo_tokenizer(), from_gguf("llama3"), from_gguf("llama2"), from_json("qwen3")] {
        let fragments = fragments(&tokenizer);
        let mut replaced = 0;
        for round in 0..4000 {
            let any = |random: &mut fastrand::Rng| random.u32(0..tokenizer.vocab_size() as u32 + 3);
            let ids: Vec<u32> = (0..random.usize(0..24))
                .map(|_| {
                    if random.bool() || round % 2 == 0 {
                        fragments[random.usize(0..fragments.len())]
                    } else {
                        any(&mut random)
                    }
                })
                .collect();
            let once = tokenizer.decode(&ids);
            assert_eq!(in_pieces(&tokenizer, &ids), once, "{ids:?}");
            let ordinary: Vec<u8> = ids
                .iter()
                .filter(|&&id| !tokenizer.is_special(id))
                .flat_map(|&id| tokenizer.token_bytes(id).to_vec())
                .collect();
            let lossy = String::from_utf8_lossy(&ordinary);
            assert_eq!(once.trim_start(), lossy.trim_start(), "{ids:?}");
            replaced += usize::from(once.contains('\u{fffd}'));
        }
        assert!(replaced > 1000, "invalid bytes were among them: {replaced}");
    }
}

#[test]
fn texts_in_pieces_come_back_without_replacement_characters() {
    for tokenizer in [demo_tokenizer(), from_gguf("llama3"), from_gguf("llama2")] {
        for text in corpus().iter().filter(|text| !text.contains(['\u{fffd}', '\u{2581}'])) {
            let ids = tokenizer.encode(text, true).unwrap();
            assert_eq!(&in_pieces(&tokenizer, &ids), &tokenizer.decode(&ids));
            let mut detokenizer = Detokenizer::new(Arc::clone(&tokenizer));
            for &id in &ids {
                let piece = detokenizer.push(id);
                assert!(!piece.contains('\u{fffd}'), "half a character of {text:?}: {piece:?}");
            }
            assert_eq!(detokenizer.finish(), "", "{text:?}");
        }
    }
}

#[test]
fn a_character_of_four_tokens_appears_whole() {
    let tokenizer = from_gguf("llama2");
    let ids = tokenizer.encode("\u{1fae0}!", false).unwrap();
    let mut detokenizer = Detokenizer::continuing(Arc::clone(&tokenizer));
    let pieces: Vec<String> = ids.iter().map(|&id| detokenizer.push(id)).collect();
    assert_eq!(pieces, [" ", "", "", "", "\u{1fae0}", "!"]);
    let mut detokenizer = Detokenizer::new(tokenizer);
    let pieces: Vec<String> = ids[..3].iter().map(|&id| detokenizer.push(id)).collect();
    assert_eq!((pieces.concat(), detokenizer.finish()), (String::new(), "\u{fffd}".into()));
    assert_eq!(detokenizer.finish(), "");
}

#[test]
fn only_the_first_space_of_a_text_belongs_to_the_tokenizer() {
    let tokenizer = from_gguf("llama2");
    let ids = tokenizer.encode("Hello world", true).unwrap();
    assert_eq!(in_pieces(&tokenizer, &ids), "Hello world");
    let mut completion = Detokenizer::continuing(Arc::clone(&tokenizer));
    let text: String = ids.iter().map(|&id| completion.push(id)).collect();
    assert_eq!(text, " Hello world");
    let ids = tokenizer.encode("  two", false).unwrap();
    assert_eq!(in_pieces(&tokenizer, &ids), "  two");
}
