//! Stop strings: however the text is cut, what is shown is the text before the first stop that completes, and what may
//! still become a stop is held back.

use steppe::text::{MAX_STOP_STRINGS, StopStep, StopStrings};

fn strings(texts: &[&str]) -> StopStrings {
    StopStrings::new(texts.iter().map(|&text| text.to_owned()).collect()).unwrap()
}

fn step(text: &str, matched: Option<&str>) -> StopStep {
    StopStep { text: text.into(), matched: matched.map(str::to_owned) }
}

#[test]
fn a_stop_across_pieces_is_found_and_not_shown() {
    let mut stop = strings(&["\nUser:"]);
    assert_eq!(stop.push("Hello"), step("Hello", None));
    assert_eq!(stop.push(".\n"), step(".", None));
    assert_eq!(stop.push("Us"), step("", None));
    assert_eq!(stop.push("er: more"), step("", Some("\nUser:")));
}

#[test]
fn what_turns_out_to_be_no_stop_is_shown() {
    let mut stop = strings(&["abcd"]);
    assert_eq!(stop.push("xabc"), step("x", None));
    assert_eq!(stop.push("abc"), step("abc", None));
    assert_eq!(stop.push("e"), step("abce", None));
    assert_eq!(stop.push("ab"), step("", None));
    assert_eq!(stop.finish(), "ab");
    assert_eq!(stop.finish(), "");
}

#[test]
fn the_stop_that_completes_first_wins() {
    assert_eq!(strings(&["bcd", "c"]).push("abcd"), step("ab", Some("c")));
    assert_eq!(strings(&["c", "bc"]).push("abcd"), step("a", Some("bc")));
    assert_eq!(strings(&[]).push("abcd"), step("abcd", None));
}

#[test]
fn limits_are_told() {
    let many = vec!["x".to_owned(); MAX_STOP_STRINGS + 1];
    assert!(StopStrings::new(many).unwrap_err().to_string().contains("17"));
    assert!(StopStrings::new(vec![String::new()]).unwrap_err().to_string().contains("empty"));
    assert!(StopStrings::new(vec!["x".into(); MAX_STOP_STRINGS]).is_ok());
}

/// The rule restated for a whole text: the end of the first stop to complete, longest stop on ties.
fn expected(text: &str, stops: &[String]) -> (String, Option<String>) {
    for end in 0..=text.len() {
        let Some(prefix) = text.get(..end) else { continue };
        let longest = stops.iter().filter(|stop| prefix.ends_with(stop.as_str())).max_by_key(|stop| stop.len());
        if let Some(stop) = longest {
            return (prefix[..end - stop.len()].to_owned(), Some(stop.clone()));
        }
    }
    (text.to_owned(), None)
}

#[test]
fn any_cut_gives_the_same_answer() {
    let mut random = fastrand::Rng::with_seed(11);
    let alphabet = ['a', 'b', 'я', '👍', '\n'];
    let word = |random: &mut fastrand::Rng, longest: usize| -> String {
        (0..random.usize(1..=longest)).map(|_| alphabet[random.usize(0..alphabet.len())]).collect()
    };
    let mut found = 0;
    for _ in 0..20_000 {
        let stops: Vec<String> = (0..random.usize(1..4)).map(|_| word(&mut random, 5)).collect();
        let text = word(&mut random, 30);
        let (shown, matched) = expected(&text, &stops);
        let mut stop = StopStrings::new(stops.clone()).unwrap();
        let (mut output, mut reported, mut seen) = (String::new(), None, String::new());
        let mut rest = text.as_str();
        while !rest.is_empty() && reported.is_none() {
            let cut = rest.char_indices().nth(random.usize(1..5)).map_or(rest.len(), |(at, _)| at);
            let (piece, after) = rest.split_at(cut);
            seen.push_str(piece);
            let before = output.len();
            let step = stop.push(piece);
            output.push_str(&step.text);
            reported = step.matched;
            if reported.is_some() {
                let earlier = expected(&seen[..seen.len() - piece.len()], &stops);
                assert_eq!(earlier.1, None, "completed in this piece, not before");
                assert!(before <= shown.len());
            } else {
                let held = &seen[output.len()..];
                assert!(
                    held.is_empty() || stops.iter().any(|stop| stop.starts_with(held)),
                    "{held:?} held for nothing"
                );
            }
            rest = after;
        }
        if reported.is_none() {
            output.push_str(&stop.finish());
        }
        assert_eq!((output, reported), (shown, matched.clone()), "{text:?} {stops:?}");
        found += usize::from(matched.is_some());
    }
    assert!(found > 5_000 && found < 19_000, "both outcomes occurred: {found}");
}
