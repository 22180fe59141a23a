//! Guesses at a sequence's next tokens, looked up in its own: where its last tokens stood before, what followed then may
//! follow again (prompt lookup; Saxena, 2023). Guesses are judged whether or not anybody computes them, so that what a
//! draft is worth is known before it costs anything. Must not know rows, blocks or what a step costs.

use std::iter;

/// Last tokens that are looked up, the longest first.
const NGRAMS: [usize; 2] = [3, 2];
/// Entries of an index at most; older ones give way.
const MAX_ENTRIES: usize = 1 << 16;
/// Chance that the first guess is right.
const FIRST_CHANCE: f64 = 0.3;
/// What a judgement counts for in the next chance.
const PACE: f64 = 0.1;

/// What is known of a sequence's repetitions: an index of its n-grams, which grows with it, and how good its guesses are.
#[derive(Debug)]
pub(super) struct Drafter {
    prompt_len: usize,
    max_entries: usize,
    /// By the hash of an n-gram, the position behind the last place where it stood. Entries are checked when they are
    /// used, so what shares one only loses a guess.
    index: Box<[u32]>,
    /// Tokens in the index.
    len: usize,
    /// Position of the token that is expected to come again next.
    source: Option<usize>,
    /// Chance that a guess is right.
    chance: f64,
}

impl Drafter {
    /// A drafter of a sequence of at most `max_len` tokens. Takes no memory before it is used.
    pub fn new(prompt_len: usize, max_len: usize) -> Self {
        let max_entries = max_len.saturating_mul(2 * NGRAMS.len()).min(MAX_ENTRIES).next_power_of_two();
        let index = Box::default();
        Self { prompt_len, max_entries, index, len: 0, source: None, chance: FIRST_CHANCE }
    }

    /// Takes in the tokens that are new in `tokens`, the whole sequence so far, and judges the guesses at them.
    pub fn follow(&mut self, tokens: &[u32]) {
        if self.index.is_empty() {
            self.index = vec![0; self.max_entries].into_boxed_slice();
        }
        for len in self.len + 1..=tokens.len() {
            let known = &tokens[..len];
            // A prompt is nobody's guess.
            if len >= self.prompt_len {
                self.judge(known);
            }
            for n in NGRAMS {
                if let Some(entry) = self.entry(known, n) {
                    self.index[entry] = len as u32;
                }
            }
        }
        self.len = tokens.len();
    }

    /// How many tokens to draft, `most` at most: each with at least this chance to be right together with those before it.
    pub fn depth(&self, least_chance: f64, most: usize) -> usize {
        if self.source.is_none() {
            return 0;
        }
        let chances = iter::successors(Some(self.chance), |chance| Some(chance * self.chance));
        chances.take(most).take_while(|&chance| chance >= least_chance).count()
    }

    /// What is expected behind `tokens`, those followed last. What runs into the end of the sequence goes round.
    pub fn guesses<'a>(&self, tokens: &'a [u32]) -> impl Iterator<Item = u32> + use<'a> {
        let source = self.source.map_or(&[][..], |source| &tokens[source..]);
        source.iter().copied().cycle()
    }

    /// The last of `known` has come: was it guessed, and what comes next?
    fn judge(&mut self, known: &[u32]) {
        let [before @ .., last] = known else { return };
        let mut next = None;
        if let Some(source) = self.source {
            let is_right = before[source] == *last;
            self.chance += PACE * (f64::from(u8::from(is_right)) - self.chance);
            next = is_right.then_some(source + 1);
        }
        self.source = next.or_else(|| NGRAMS.into_iter().find_map(|n| self.look_up(known, n)));
    }

    fn look_up(&self, tokens: &[u32], n: usize) -> Option<usize> {
        let place = self.index[self.entry(tokens, n)?] as usize;
        let is_same = place >= n && tokens[place - n..place] == tokens[tokens.len() - n..];
        is_same.then_some(place)
    }

    /// The entry of the last `n` tokens: FNV-1a over ids, its high bits.
    fn entry(&self, tokens: &[u32], n: usize) -> Option<usize> {
        let last = &tokens[tokens.len().checked_sub(n)?..];
        let mix = |hash: u64, &id: &u32| (hash ^ u64::from(id)).wrapping_mul(0x0100_0000_01b3);
        let hash = last.iter().fold(0xcbf2_9ce4_8422_2325, mix).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Some((hash >> 32) as usize & (self.index.len() - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(tokens: &[u32], prompt_len: usize) -> Drafter {
        let mut drafter = Drafter::new(prompt_len, 1000);
        drafter.follow(tokens);
        drafter
    }

    fn guesses(tokens: &[u32], count: usize) -> Vec<u32> {
        after(tokens, tokens.len()).guesses(tokens).take(count).collect()
    }

    #[test]
    fn what_followed_the_last_tokens_before_is_guessed() {
        assert_eq!(guesses(&[1, 2, 3, 4, 5, 9, 2, 3], 2), [4, 5]);
        assert_eq!(guesses(&[7, 2, 3, 4, 6, 2, 3, 5, 7, 2, 3], 2), [4, 6], "three tokens tell more than two");
        assert_eq!(guesses(&[2, 3, 4, 6, 2, 3, 5, 9, 2, 3], 2), [5, 9], "the last place counts");
        assert!(guesses(&[1, 2, 3, 4, 5, 9, 8, 3], 2).is_empty(), "one token tells nothing");
        assert!(guesses(&[1], 2).is_empty());
    }

    #[test]
    fn what_goes_round_is_guessed_to_go_on() {
        assert_eq!(guesses(&[1, 2, 3, 1, 2, 3, 1, 2], 7), [3, 1, 2, 3, 1, 2, 3]);
        assert_eq!(guesses(&[5, 5, 5, 5], 3), [5, 5, 5]);
    }

    #[test]
    fn a_place_is_kept_while_it_is_right_and_left_when_it_is_not() {
        let prompt = [10, 11, 12, 13, 14, 15, 16, 50, 51, 52, 10, 11];
        let mut tokens = prompt.to_vec();
        let mut drafter = after(&tokens, prompt.len());
        for (next, expected) in [(12, vec![13, 14]), (13, vec![14, 15]), (51, vec![]), (52, vec![10, 11])] {
            tokens.push(next);
            // The change of 14 to 51 is followed by what stands behind 51, 52 in the prompt.
            drafter.follow(&tokens);
            assert_eq!(drafter.guesses(&tokens).take(2).collect::<Vec<_>>(), expected, "{tokens:?}");
        }
    }

    #[test]
    fn chances_follow_what_comes_and_decide_the_depth() {
        let text: Vec<u32> = (0..50).chain([0, 1]).collect();
        let mut drafter = after(&text, text.len());
        assert_eq!([drafter.depth(0.2, 8), drafter.depth(0.05, 8), drafter.depth(0.4, 8)], [1, 2, 0]);
        let mut tokens = text.clone();
        tokens.extend(2..30);
        drafter.follow(&tokens);
        assert_eq!([drafter.depth(0.2, 8), drafter.depth(0.2, 3), drafter.depth(0.999, 8)], [8, 3, 0]);
        // Many guesses from a pair that is followed by something else each time.
        for odd in 100..130 {
            tokens.extend([1, 2, odd]);
            drafter.follow(&tokens);
        }
        tokens.extend([1, 2]);
        drafter.follow(&tokens);
        assert_eq!((drafter.source.is_some(), drafter.depth(0.1, 8)), (true, 0));
    }

    #[test]
    fn following_at_once_or_by_and_by_is_the_same_and_the_index_is_bounded() {
        let mut random = fastrand::Rng::with_seed(3);
        let tokens: Vec<u32> = (0..100_000).map(|_| random.u32(0..300)).collect();
        let prompt_len = 1000;
        let new = || Drafter::new(prompt_len, 1 << 40);
        let (mut once, mut stepwise) = (new(), new());
        once.follow(&tokens);
        let mut len = prompt_len;
        while len < tokens.len() {
            stepwise.follow(&tokens[..len]);
            len += random.usize(1..9);
        }
        stepwise.follow(&tokens);
        assert_eq!((once.index.len(), &once.index), (MAX_ENTRIES, &stepwise.index));
        assert_eq!((once.source, once.chance), (stepwise.source, stepwise.chance));
    }
}
