//! Prompts of a wanted number of tokens, all distinct, for a server whose tokenizer is unknown.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::client::{Client, RequestError};

/// Frequent English words: one token each in most vocabularies.
const WORDS: &str = "about above across after again air almost along also always animal answer around ask away back \
    before began begin being below best better between big bird black blue boat body book both box bring brown build \
    busy call came car carry center change city class clear close cold color come common country course cover cross \
    dark day decide deep different distance door down draw dry during early earth ease east eat end enough even ever \
    every example eye face fact fall family far farm fast father feel feet field final find fire first fish five fly \
    follow food foot force form four free friend front full game gave girl give glass gold good great green ground \
    group grow half hand hard head hear heat help here high hold home horse hot hour house idea inch island just keep \
    kind king knew land language large last late laugh law lay lead learn leave left less letter life light line list \
    listen little live long look lot love low machine made main make map mark measure men might mile mind minute moon \
    more morning mother mountain move much music name near need never new next night north note nothing notice number";

/// Words of the two probes.
const PROBES: [usize; 2] = [16, 80];

/// A source of prompts, calibrated for one server: tokens = `overhead` + `per_word` · words.
#[derive(Debug)]
pub struct Prompts {
    overhead: f64,
    per_word: f64,
    words: Vec<&'static str>,
    random: StdRng,
}

impl Prompts {
    /// Fits the line through two short probe requests. A server without usage counts is assumed to need 1.1 tokens a
    /// word and 8 around them.
    pub fn calibrate(client: &Client, seed: u64) -> Result<Self, RequestError> {
        let mut prompts = Self {
            overhead: 8.0,
            per_word: 1.1,
            words: WORDS.split_whitespace().collect(),
            random: StdRng::seed_from_u64(seed),
        };
        let mut tokens = [0.0; 2];
        for (count, words) in tokens.iter_mut().zip(PROBES) {
            *count = client.ask(&prompts.words(words), 1, &mut |_| ())?.prompt_tokens as f64;
        }
        if tokens[1] > tokens[0] {
            prompts.per_word = (tokens[1] - tokens[0]) / (PROBES[1] - PROBES[0]) as f64;
            prompts.overhead = tokens[0] - prompts.per_word * PROBES[0] as f64;
        }
        Ok(prompts)
    }

    /// A prompt of about so many tokens, chat template included.
    pub fn of_tokens(&mut self, tokens: usize) -> String {
        let count = ((tokens as f64 - self.overhead) / self.per_word).round().max(1.0);
        self.words(count as usize)
    }

    /// `count` prompts of about `tokens` tokens each behind one shared prefix of `prefix` further tokens.
    pub fn batch(&mut self, count: usize, tokens: usize, prefix: usize) -> Vec<String> {
        let shared = (prefix > 0).then(|| self.words(((prefix as f64 / self.per_word).round() as usize).max(1)));
        (0..count)
            .map(|_| {
                let own = self.of_tokens(tokens);
                shared.as_ref().map_or_else(|| own.clone(), |shared| format!("{shared} {own}"))
            })
            .collect()
    }

    fn words(&mut self, count: usize) -> String {
        let mut text = String::with_capacity(count * 6);
        for _ in 0..count {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(self.words.choose(&mut self.random).copied().unwrap_or("word"));
        }
        text
    }
}
