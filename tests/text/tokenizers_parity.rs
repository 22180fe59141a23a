//! Exact ids: our tokenizers against Hugging Face's library on the same published vocabularies, and against ids that
//! Python's tokenizers gave for the demo model's vocabulary.

use models::TokenKind;
use steppe::text::Tokenizer;

use crate::fixtures::{corpus, demo_tokenizer, from_gguf, from_json, golden, published, reference};

/// Corpus texts, their concatenations and cuts at every character of the shorter ones.
fn texts() -> Vec<String> {
    let corpus = corpus();
    let mut texts = corpus.clone();
    texts.extend(corpus.windows(2).map(<[String]>::concat));
    texts.push(corpus.join("\n"));
    texts.push(corpus.join(" ").repeat(4));
    for text in corpus.iter().filter(|text| text.len() < 120) {
        texts.extend(text.char_indices().skip(1).map(|(at, _)| text[at..].to_owned()));
    }
    texts
}

fn assert_same_ids(ours: &Tokenizer, theirs: &tokenizers::Tokenizer, what: &str) {
    let texts = texts();
    assert!(texts.len() > 1000);
    for text in &texts {
        let expected = theirs.encode_fast(text.as_str(), false).unwrap();
        assert_eq!(ours.encode(text, false).unwrap(), expected.get_ids(), "{what}: {text:?}");
    }
}

#[test]
fn llama3_ids_equal_hugging_face() {
    let theirs = reference("llama3");
    assert_same_ids(&from_json("llama3"), &theirs, "tokenizer.json");
    assert_same_ids(&from_gguf("llama3"), &theirs, "GGUF");
}

#[test]
fn llama2_ids_equal_hugging_face() {
    let mut theirs = (*reference("llama2")).clone();
    theirs.set_encode_special_tokens(true);
    assert_same_ids(&from_json("llama2"), &theirs, "tokenizer.json");
    assert_same_ids(&from_gguf("llama2"), &theirs, "GGUF");
}

#[test]
fn qwen3_ids_equal_hugging_face() {
    let theirs = reference("qwen3");
    assert_same_ids(&from_json("qwen3"), &theirs, "tokenizer.json");
    assert_same_ids(&from_gguf("qwen3"), &theirs, "GGUF");
}

#[test]
fn demo_model_ids_equal_python() {
    let ours = demo_tokenizer();
    let golden = golden("smollm2_ids.json");
    let corpus = corpus();
    assert_eq!(golden.as_array().unwrap().len(), corpus.len());
    for (text, expected) in corpus.iter().zip(golden.as_array().unwrap()) {
        let expected: Vec<u32> = serde_json::from_value(expected.clone()).unwrap();
        assert_eq!(ours.encode(text, false).unwrap(), expected, "{text:?}");
    }
}

#[test]
fn decoding_gives_the_text_back() {
    for name in ["llama3", "llama2"] {
        let tokenizer = from_gguf(name);
        for text in texts() {
            let ids = tokenizer.encode(&text, true).unwrap();
            if name == "llama2" && text.contains('\u{2581}') {
                continue; // SentencePiece itself does not tell this character from a space.
            }
            assert_eq!(tokenizer.decode(&ids), text, "{name}");
        }
    }
}

#[test]
fn decoding_equals_hugging_face() {
    for name in ["llama2", "llama3", "qwen3"] {
        let (ours, theirs) = (from_gguf(name), reference(name));
        for text in corpus() {
            let ids = theirs.encode_fast(text.as_str(), true).unwrap().get_ids().to_vec();
            assert_eq!(ours.decode(&ids), theirs.decode(&ids, true).unwrap(), "{name}: {text:?}");
        }
    }
}

#[test]
fn control_tokens_in_text_stay_text() {
    for name in ["llama2", "llama3", "qwen3"] {
        for tokenizer in [from_json(name), from_gguf(name)] {
            for (id, token) in tokenizer.special_tokens().collect::<Vec<_>>() {
                for text in [token.clone(), format!("a{token}b"), format!(" {token} {token}"), token.repeat(3)] {
                    let ids = tokenizer.encode(&text, false).unwrap();
                    let control = ids.iter().find(|&&id| tokenizer.is_special(id));
                    assert_eq!(control, None, "{name}: {text:?} became token {id}");
                    assert_eq!(tokenizer.decode(&ids), text, "{name}");
                }
            }
        }
    }
}

#[test]
fn control_tokens_in_text_become_what_hugging_face_makes_of_them() {
    for name in ["llama3", "qwen3"] {
        let mut theirs = (*reference(name)).clone();
        theirs.set_encode_special_tokens(true);
        for tokenizer in [from_json(name), from_gguf(name)] {
            for (_, token) in tokenizer.special_tokens() {
                let text = format!("before {token}after\n{token}");
                let expected = theirs.encode_fast(text.as_str(), false).unwrap();
                assert_eq!(tokenizer.encode(&text, false).unwrap(), expected.get_ids(), "{name}: {text:?}");
            }
        }
    }
}

#[test]
fn texts_begin_with_the_token_that_the_model_wants() {
    let llama2 = from_json("llama2");
    assert_eq!((llama2.bos_id(), llama2.eos_id(), llama2.add_bos()), (Some(1), Some(2), true));
    assert_eq!(llama2.encode("Hi", true).unwrap(), reference("llama2").encode_fast("Hi", true).unwrap().get_ids());
    let llama3 = from_gguf("llama3");
    assert_eq!(llama3.encode("Hi", true).unwrap()[0], 128_000);
    let qwen3 = from_json("qwen3");
    assert_eq!((qwen3.bos_id(), qwen3.eos_id(), qwen3.add_bos()), (None, Some(151_645), false));
    assert_eq!(qwen3.encode("Hi", true).unwrap(), qwen3.encode("Hi", false).unwrap());
}

#[test]
fn a_file_without_pre_tokenizer_name_is_recognised_by_its_tokens() {
    let theirs = reference("llama3");
    for pre in ["", "default"] {
        let mut metadata = crate::fixtures::gguf("llama3");
        metadata.pre = pre.into();
        assert!(metadata.kinds.contains(&TokenKind::Control));
        let ours = Tokenizer::from_source(&models::TokenizerSource::Gguf(Box::new(metadata))).unwrap();
        for text in corpus() {
            let expected = theirs.encode_fast(text.as_str(), false).unwrap();
            assert_eq!(ours.encode(&text, false).unwrap(), expected.get_ids(), "{text:?}");
        }
    }
}

#[test]
fn vocabularies_converted_for_quantised_files_keep_their_ids() {
    for name in ["llama2", "llama3", "qwen3"] {
        let config = published(name, "tokenizer_config.json");
        let vocabulary = models::read_tokenizer_json(&published(name, "tokenizer.json"), Some(&config)).unwrap();
        let ours = Tokenizer::from_source(&models::TokenizerSource::Gguf(Box::new(vocabulary))).unwrap();
        let mut theirs = (*reference(name)).clone();
        theirs.set_encode_special_tokens(true);
        for text in corpus() {
            let expected = theirs.encode_fast(text.as_str(), false).unwrap();
            assert_eq!(ours.encode(&text, false).unwrap(), expected.get_ids(), "{name}: {text:?}");
        }
        assert_eq!(ours.eos_id(), from_json(name).eos_id(), "{name}");
    }
}
