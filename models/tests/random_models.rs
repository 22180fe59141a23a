//! Files that the random maker writes, read back: every architecture, every type, tied and untied.
#![expect(clippy::unwrap_used, reason = "tests")]

use kernels::GgmlType;
use models::random::RandomModel;
use models::{Architecture, ModelFile, Recipe, TokenizerSource};

const ARCHITECTURES: [Architecture; 4] =
    [Architecture::Llama, Architecture::Mistral, Architecture::Qwen2, Architecture::Qwen3];

#[test]
fn gguf_of_every_architecture_and_type_reads_as_it_was_made() {
    let directory = tempfile::tempdir().unwrap();
    for architecture in ARCHITECTURES {
        for ggml_type in GgmlType::ALL {
            for tied_embeddings in [false, true] {
                let mut model = RandomModel::tiny(architecture, Recipe::Uniform(ggml_type));
                model.config.tied_embeddings = tied_embeddings;
                let path = directory.path().join("tiny.gguf");
                let size = model.write_gguf(&path, &mut |_| {}).unwrap();
                assert_eq!(size, std::fs::metadata(&path).unwrap().len());
                let file = ModelFile::open(&path).unwrap();
                let mut config = file.config().unwrap();
                for (name, rows, columns) in config.matrices() {
                    let view = file.tensor(&name).unwrap();
                    assert_eq!((view.ggml_type, view.shape), (ggml_type, vec![rows, columns]), "{name}");
                }
                for (name, len) in config.vectors() {
                    assert_eq!(file.tensor(&name).unwrap().shape, [len], "{name}");
                }
                // GGUF knows Mistral as a llama, and the style is the file's.
                config.architecture = architecture;
                config.rope_style = model.config.rope_style;
                assert_eq!(config, model.config);
            }
        }
    }
}

#[test]
fn vocabulary_is_filled_up_and_ends_answers() {
    let directory = tempfile::tempdir().unwrap();
    let model = RandomModel::tiny(Architecture::Llama, Recipe::Q4KM);
    let path = directory.path().join("tiny.gguf");
    model.write_gguf(&path, &mut |_| {}).unwrap();
    let file = ModelFile::open(&path).unwrap();
    let TokenizerSource::Gguf(vocabulary) = file.tokenizer().unwrap() else { panic!("a GGUF carries its vocabulary") };
    assert_eq!(vocabulary.tokens.len(), 288);
    assert_eq!(vocabulary.merges, model.vocabulary.merges);
    assert_eq!(file.end_ids(), [269, 272], "<|end_of_text|> and <|eot_id|>");
    assert!(file.chat_template().unwrap().contains("<|start_header_id|>"));
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = |seed| {
        let model = RandomModel { seed, ..RandomModel::tiny(Architecture::Qwen3, Recipe::Uniform(GgmlType::Q4_0)) };
        let path = directory.path().join("tiny.gguf");
        model.write_gguf(&path, &mut |_| {}).unwrap();
        std::fs::read(&path).unwrap()
    };
    assert_eq!(bytes(1), bytes(1));
    assert_ne!(bytes(1), bytes(2));
}
