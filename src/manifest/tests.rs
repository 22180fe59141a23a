#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

#[test]
fn built_in_manifests_parse_and_name_the_house_model() {
    assert_eq!(Manifest::built_in().count(), BUILT_IN.len());
    let saiga = Manifest::built_in_named("saiga_llama3_8b").unwrap();
    assert_eq!(saiga.repo.as_deref(), Some("IlyaGusev/saiga_llama3_8b_gguf"));
    assert_eq!(saiga.file.as_deref(), Some("model-q4_K.gguf"));
    assert!(saiga.system_prompt.as_deref().unwrap().starts_with("Ты — Сайга, русскоязычный"));
    assert_eq!((saiga.sampling.temperature, saiga.sampling.top_k), (Some(0.6), Some(30)));
    assert_eq!((saiga.sampling.top_p, saiga.sampling.repetition_penalty), (Some(0.9), Some(1.1)));
    let source = Manifest::built_in_named("saiga_llama3_8b-safetensors").unwrap();
    assert_eq!((source.repo.as_deref(), source.file), (Some("IlyaGusev/saiga_llama3_8b"), None));
    assert_eq!(source.system_prompt, saiga.system_prompt);
}

#[test]
fn the_file_beside_a_model_wins_over_the_built_in_one() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("saiga_llama3_8b.gguf");
    assert_eq!(Manifest::of_model(&model).unwrap().unwrap().sampling.top_k, Some(30));
    let own =
        Manifest { name: "saiga_llama3_8b".into(), system_prompt: Some("Кратко.".into()), ..Manifest::default() };
    assert_eq!(own.write_beside(&model).unwrap(), folder.path().join("saiga_llama3_8b.toml"));
    assert_eq!(Manifest::of_model(&model).unwrap().unwrap(), own);
    assert_eq!(Manifest::of_model(&folder.path().join("unknown.gguf")).unwrap(), None);
}

#[test]
fn names_keep_their_dots() {
    assert_eq!(Manifest::path_of(Path::new("weights/Qwen2.5-7B")), Path::new("weights/Qwen2.5-7B.toml"));
    assert_eq!(Manifest::path_of(Path::new("weights/a.Q4_1.gguf")), Path::new("weights/a.Q4_1.toml"));
}

#[test]
fn unknown_keys_and_values_out_of_range_are_errors() {
    for (text, wanted) in [
        ("name = \"a\"\nsistem_prompt = \"x\"", "sistem_prompt"),
        ("name = \"a\"\n[sampling]\ntemprature = 1.0", "temprature"),
        ("name = \"a\"\n[sampling]\ntemperature = 3.5", "sampling.temperature"),
        ("name = \"a\"\n[sampling]\ntop_p = nan", "sampling.top_p"),
        ("name = \"../a\"", "plain file name"),
        ("name = \"a\"\nsha256 = \"12\"", "sha256"),
        ("system_prompt = \"x\"", "name"),
    ] {
        let error = Manifest::parse(text).unwrap_err();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}
