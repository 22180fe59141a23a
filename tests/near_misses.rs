//! A labelled set of questions as a company's people ask them, English and Russian: which may share an answer, and which
//! must not though they look alike. Prints how often each means would be wrong. `scripts/test` brings the embedding model.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;

use models::Encoder;
use steppe::cache::{Cache, CacheSettings};
use steppe::kv_store::KvStore;
use steppe::text::EncoderTokenizer;

/// As the configuration has it.
const THRESHOLD: f32 = 0.97;
/// For comparison.
const LOWER: f32 = 0.9;
/// What must never be confused.
const STRICT: [&str; 4] = ["numbers", "dates", "names", "negation"];

/// By language: kind, question, question.
type Set = BTreeMap<String, Vec<[String; 3]>>;

/// Pairs of one kind that each means takes for the same question.
#[derive(Default)]
struct Taken {
    pairs: usize,
    guards: usize,
    threshold: usize,
    both: usize,
    lower: usize,
    lower_both: usize,
}

#[test]
fn near_misses_are_told_from_paraphrases() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/embeddings/all-MiniLM-L6-v2");
    assert!(folder.exists(), "{} is missing: run scripts/test, which brings it", folder.display());
    let encoder = Encoder::load(&folder, 2).unwrap();
    let tokenizer = EncoderTokenizer::open(&folder, encoder.vocab_size(), encoder.max_tokens()).unwrap();
    let vector = |text: &str| encoder.encode(&[&tokenizer.encode(text).unwrap()]).unwrap().remove(0);
    let cache = Cache::new(KvStore::memory(1 << 20), &["secret"], CacheSettings::default()).unwrap();

    let set: Set = serde_json::from_str(include_str!("fixtures/near_misses.json")).unwrap();
    let mut table: BTreeMap<(&str, &str), Taken> = BTreeMap::new();
    for (language, pairs) in &set {
        assert!(pairs.len() >= 60);
        for [kind, one, other] in pairs {
            let cosine: f32 = vector(one).iter().zip(vector(other)).map(|(one, other)| one * other).sum();
            let (guard, other_guard) = (cache.guard(one), cache.guard(other));
            let equal = guard.is_some() && guard == other_guard;
            let (near, nearer) = (cosine >= LOWER, cosine >= THRESHOLD);
            let taken = table.entry((language, kind)).or_default();
            for (count, wanted) in [
                (&mut taken.pairs, true),
                (&mut taken.guards, equal),
                (&mut taken.threshold, nearer),
                (&mut taken.both, equal && nearer),
                (&mut taken.lower, near),
                (&mut taken.lower_both, equal && near),
            ] {
                *count += usize::from(wanted);
            }
            assert!(!(equal && STRICT.contains(&kind.as_str())), "the guards of these are equal: {one} | {other}");
        }
    }
    println!("pairs taken for the same question   pairs  guards  {THRESHOLD}  both  {LOWER}  both");
    for ((language, kind), taken) in &table {
        let Taken { pairs, guards, threshold, both, lower, lower_both } = taken;
        println!("{language} {kind:<32} {pairs:>5} {guards:>7} {threshold:>5} {both:>5} {lower:>4} {lower_both:>5}");
        if STRICT.contains(kind) {
            assert_eq!(*both, 0, "{language} {kind}");
        }
    }
}
