//! Names of groups: distinguished names (RFC 4514) in one spelling, so that they can be compared.

/// One spelling for all that name the same group: lower case; of a distinguished name, no space and no escape that may
/// as well be absent.
pub(super) fn normal(name: &str) -> String {
    let Some(parts) = parse(name) else { return name.trim().to_lowercase() };
    let mut text = String::new();
    for Part { before, attribute, value } in parts {
        text.extend(before);
        text.push_str(&attribute.to_lowercase());
        text.push('=');
        text.push_str(&ldap3::dn_escape(value.to_lowercase()));
    }
    text
}

/// `accounting` of `cn=Accounting,ou=groups,dc=example,dc=org`.
pub(super) fn plain(dn: &str) -> Option<String> {
    parse(dn)?.into_iter().next().map(|part| part.value.trim().to_lowercase())
}

/// Whether `dn` is below `base` or the same; both [`normal`].
pub(super) fn is_below(dn: &str, base: &str) -> bool {
    dn == base || dn.strip_suffix(base).is_some_and(|rest| rest.ends_with(','))
}

struct Part {
    /// What stands before it: nothing, `,` or `+`.
    before: Option<char>,
    attribute: String,
    value: String,
}

/// None for what is no distinguished name.
fn parse(dn: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let (mut rest, mut before) = (dn.as_bytes(), None);
    loop {
        let equals = rest.iter().position(|byte| *byte == b'=')?;
        let attribute = std::str::from_utf8(&rest[..equals]).ok()?.trim().to_owned();
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        if attribute.is_empty() || !attribute.bytes().all(sound) {
            return None;
        }
        let (value, end) = value(&rest[equals + 1..])?;
        parts.push(Part { before, attribute, value });
        rest = &rest[equals + 1 + end..];
        let Some((separator, behind)) = rest.split_first() else { return Some(parts) };
        (before, rest) = (Some(char::from(*separator)), behind);
    }
}

/// A value without its escapes and the spaces around it, and where it ends.
fn value(text: &[u8]) -> Option<(String, usize)> {
    let (mut bytes, mut at, mut kept) = (Vec::new(), 0, 0);
    while at < text.len() && !matches!(text[at], b',' | b'+') {
        if text[at] == b'\\' {
            let hex = text.get(at + 1..at + 3).and_then(|pair| hex::decode(pair).ok());
            let escaped = hex.map_or_else(|| text.get(at + 1).map(|byte| (*byte, 2)), |byte| Some((byte[0], 3)));
            let (byte, length) = escaped?;
            bytes.push(byte);
            at += length;
            kept = bytes.len();
        } else {
            if text[at] != b' ' {
                bytes.push(text[at]);
                kept = bytes.len();
            } else if kept > 0 {
                bytes.push(b' ');
            }
            at += 1;
        }
    }
    bytes.truncate(kept);
    Some((String::from_utf8(bytes).ok()?, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_name_are_equal() {
        for (left, right) in [
            ("CN=Sales,OU=Groups,DC=corp", "cn=sales, ou=groups , dc = corp"),
            (r"cn=a\2Cb,dc=x", r"cn=a\,b,dc=x"),
            (r"cn=\D0\98\D0\A2,dc=x", "CN=ит,DC=X"),
            ("cn=a+sn=b,dc=x", "CN=A + SN=B, DC=X"),
            ("  Sales ", "sales"),
        ] {
            assert_eq!(normal(left), normal(right), "{left}");
        }
        for (left, right) in [
            (r"cn=a\,ou=b,dc=x", "cn=a,ou=b,dc=x"),
            (r"cn=a\ ,dc=x", "cn=a,dc=x"),
            ("cn=a,dc=x", "cn=a"),
            ("cn=a+sn=b", "cn=a,sn=b"),
        ] {
            assert_ne!(normal(left), normal(right), "{left}");
        }
    }

    #[test]
    fn plain_names_and_places() {
        assert_eq!(plain(r"CN=Sales\, EMEA,DC=x").as_deref(), Some("sales, emea"));
        assert_eq!(plain("sales"), None);
        let place = |dn: &str, base: &str| is_below(&normal(dn), &normal(base));
        assert!(place("cn=a,OU=g,dc=x", "ou=g,dc=x") && place("ou=g,dc=x", "ou=g,dc=x"));
        assert!(!place(r"cn=a\,ou=g,dc=x", "ou=g,dc=x") && !place("cn=a,ou=big,dc=x", "ou=g,dc=x"));
        assert!(!place("ou=g,dc=x", "cn=a,ou=g,dc=x"));
    }

    #[test]
    fn nonsense_is_a_plain_name() {
        for name in ["", "=", "a", "a=b,", "a=b,c", r"a=b\", "ä=b", "a=\\ff"] {
            assert_eq!(normal(name), name.to_lowercase(), "{name}");
        }
    }
}
