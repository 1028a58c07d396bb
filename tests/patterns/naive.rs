//! A matcher of patterns by plain backtracking: each sign tries all that it may take.

/// Whether the rest of a pattern matches a canonical path that begins with a slash.
pub fn matches(pattern: &[u8], path: &[u8]) -> bool {
    if let Some((head, inner, tail)) = first_brace(pattern) {
        return choices(inner).iter().any(|choice| matches(&[head, choice, tail].concat(), path));
    }
    let parts: Vec<&[u8]> = pattern.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    let names: Vec<&[u8]> = path[1..].split(|byte| *byte == b'/').collect();
    components(&parts, &names)
}

/// The first brace with what is before and behind it. Slashes in classes are not made here, so a class ends at `]`.
fn first_brace(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let from = text.iter().position(|byte| *byte == b'{')?;
    let mut depth = 0;
    for at in from..text.len() {
        depth += i32::from(text[at] == b'{') - i32::from(text[at] == b'}');
        if depth == 0 {
            return Some((&text[..from], &text[from + 1..at], &text[at + 1..]));
        }
    }
    None
}

fn choices(inner: &[u8]) -> Vec<&[u8]> {
    let (mut all, mut from, mut depth) = (Vec::new(), 0, 0);
    for (at, byte) in inner.iter().enumerate() {
        depth += i32::from(*byte == b'{') - i32::from(*byte == b'}');
        if *byte == b',' && depth == 0 {
            all.push(&inner[from..at]);
            from = at + 1;
        }
    }
    all.push(&inner[from..]);
    all
}

fn components(parts: &[&[u8]], names: &[&[u8]]) -> bool {
    match parts {
        [] => names.is_empty(),
        [b"**"] => !names.is_empty(),
        [b"**", rest @ ..] => (0..=names.len()).any(|taken| components(rest, &names[taken..])),
        [part, rest @ ..] => match names {
            [] => false,
            [name, names @ ..] => component(part, name) && components(rest, names),
        },
    }
}

/// The first character of some bytes, if they begin with one.
fn first_char(text: &[u8]) -> Option<char> {
    (1..=text.len().min(4)).find_map(|length| std::str::from_utf8(&text[..length]).ok()?.chars().next())
}

fn component(part: &[u8], name: &[u8]) -> bool {
    match part {
        [] => name.is_empty(),
        [b'*', rest @ ..] => (0..=name.len()).any(|taken| component(rest, &name[taken..])),
        [b'?', rest @ ..] => {
            let char = first_char(name).map_or(0, char::len_utf8);
            (!name.is_empty() && component(rest, &name[1..])) || (char > 1 && component(rest, &name[char..]))
        }
        [b'\\', byte, rest @ ..] => name.first() == Some(byte) && component(rest, &name[1..]),
        [b'[', ..] => {
            let end = part.iter().position(|byte| *byte == b']').expect("it is closed");
            let (class, rest) = (std::str::from_utf8(&part[1..end]).unwrap(), &part[end + 1..]);
            let (is_negated, class) = match class.strip_prefix(['!', '^']) {
                Some(class) => (true, class),
                None => (false, class),
            };
            let char = first_char(name);
            let by_char = char.is_some_and(|char| in_class(class, char) != is_negated);
            (by_char && component(rest, &name[char.map_or(0, char::len_utf8)..]))
                || (is_negated && name.first().is_some_and(|byte| *byte >= 0x80) && component(rest, &name[1..]))
        }
        [byte, rest @ ..] => name.first() == Some(byte) && component(rest, &name[1..]),
    }
}

fn in_class(class: &str, char: char) -> bool {
    let all: Vec<char> = class.chars().collect();
    let is_range = all.len() == 3 && all[1] == '-';
    if is_range { (all[0]..=all[2]).contains(&char) } else { all.contains(&char) }
}
