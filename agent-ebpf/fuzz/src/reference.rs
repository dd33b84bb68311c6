//! A framer that has the whole stream before it and works with slices: nothing in common with the engine but RFC 9112.
//!
//! It stops where a stream is not plainly valid: servers differ there, and so may the engine.

/// Up to where what was found is certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// To the stream's end, which may be inside a message.
    Whole,
    /// No further than the last message found.
    UpToHere,
}

/// Messages whose first lines are there.
#[derive(Debug)]
pub struct Found<T> {
    pub messages: Vec<T>,
    pub certainty: Certainty,
}

/// What a request's method means for its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Head,
    Connect,
    Other,
}

/// Why there is no more to be found.
enum Stop {
    /// The stream ends here.
    End,
    /// It is not plainly valid.
    Odd,
}

impl Stop {
    fn certainty(&self) -> Certainty {
        match self {
            Self::End => Certainty::Whole,
            Self::Odd => Certainty::UpToHere,
        }
    }
}

/// What a head says about the body.
enum Body {
    None,
    Length(usize),
    Chunked,
    UntilClose,
}

/// The requests in what a server receives.
pub fn requests(stream: &[u8]) -> Found<Method> {
    let mut messages = Vec::new();
    let mut rest = stream;
    let stop = loop {
        if let Err(stop) = request(&mut rest, &mut messages) {
            break stop;
        }
    };
    Found {
        messages,
        certainty: stop.certainty(),
    }
}

fn request(rest: &mut &[u8], messages: &mut Vec<Method>) -> Result<(), Stop> {
    while let [b'\r' | b'\n', behind @ ..] = *rest {
        *rest = behind;
    }
    // What is not a method is refused before the line has ended.
    let token = rest.iter().take_while(|it| is_token(**it)).count();
    if token > 32 || rest.get(token).is_some_and(|it| *it != b' ' || token == 0) {
        return Err(Stop::Odd);
    }
    let line = line(rest)?;
    let target = &line[token + 1..];
    let (target, version) = target.split_at(target.len().checked_sub(9).ok_or(Stop::Odd)?);
    let is_plain =
        version.starts_with(b" HTTP/1.") && version[8].is_ascii_digit() && !target.contains(&b'\r');
    if !is_plain {
        return Err(Stop::Odd);
    }
    messages.push(match &line[..token] {
        b"HEAD" => Method::Head,
        b"CONNECT" => Method::Connect,
        _ => Method::Other,
    });
    match head(rest)? {
        // A request has no such body: no plain server takes it.
        Body::UntilClose => Err(Stop::Odd),
        body => skip(rest, &body),
    }
}

/// The status codes in what a server sends in answer to these requests.
pub fn responses(stream: &[u8], requests: &[Method]) -> Found<u16> {
    let mut messages = Vec::new();
    let mut requests = requests.iter().copied();
    let mut rest = stream;
    let stop = loop {
        if let Err(stop) = response(&mut rest, &mut messages, &mut requests) {
            break stop;
        }
    };
    Found {
        messages,
        certainty: stop.certainty(),
    }
}

fn response(
    rest: &mut &[u8],
    messages: &mut Vec<u16>,
    requests: &mut impl Iterator<Item = Method>,
) -> Result<(), Stop> {
    let pattern = b"HTTP/1.0 000 ";
    for (index, byte) in pattern.iter().enumerate() {
        let fits = match (rest.get(index), byte) {
            (None, _) => return Err(Stop::End),
            (Some(is), b'0') => is.is_ascii_digit(),
            (Some(is), b' ') if index == 12 => matches!(is, b' ' | b'\r' | b'\n'),
            (Some(is), must) => is == must,
        };
        if !fits {
            return Err(Stop::Odd);
        }
    }
    let code = rest[9..12]
        .iter()
        .fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    if !(100..600).contains(&code) {
        return Err(Stop::Odd);
    }
    messages.push(code);
    line(rest)?;
    if code < 200 && code != 101 {
        head_lines(rest)?;
        return Ok(());
    }
    let method = requests.next().unwrap_or(Method::Other);
    if code == 101 || (method == Method::Connect && code < 300) {
        head_lines(rest)?;
        return Err(Stop::End);
    }
    if method == Method::Head || code == 204 || code == 304 {
        head_lines(rest)?;
        return Ok(());
    }
    match head(rest)? {
        // Where nothing is said, a response lasts until the end.
        Body::None | Body::UntilClose => Err(Stop::End),
        body => skip(rest, &body),
    }
}

/// A line without its end.
fn line<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Stop> {
    let end = rest.iter().position(|it| *it == b'\n').ok_or(Stop::End)?;
    let line = &rest[..end];
    *rest = &rest[end + 1..];
    Ok(line.strip_suffix(b"\r").unwrap_or(line))
}

/// The lines up to an empty one.
fn head_lines<'a>(rest: &mut &'a [u8]) -> Result<Vec<&'a [u8]>, Stop> {
    let mut lines = Vec::new();
    loop {
        // Half an empty line.
        if rest.first() == Some(&b'\r') && rest.get(1).is_some_and(|it| *it != b'\n') {
            return Err(Stop::Odd);
        }
        let line = line(rest)?;
        if line.is_empty() {
            return Ok(lines);
        }
        // Servers refuse these; the engine forgives some in values.
        let mut value = line.iter().skip_while(|it| **it != b':');
        if value.any(|it| it.is_ascii_control() && *it != b'\t') {
            return Err(Stop::Odd);
        }
        lines.push(line);
    }
}

fn head(rest: &mut &[u8]) -> Result<Body, Stop> {
    let mut body = Body::None;
    let (mut lengths, mut codings) = (0, 0);
    for line in head_lines(rest)? {
        let line = line.to_ascii_lowercase();
        if let Some(value) = line.strip_prefix(b"content-length:") {
            let value = value.trim_ascii();
            lengths += 1;
            if value.is_empty() || value.len() > 15 || !value.iter().all(u8::is_ascii_digit) {
                return Err(Stop::Odd);
            }
            if codings == 0 {
                let digits = std::str::from_utf8(value).expect("digits");
                body = Body::Length(digits.parse().expect("15 digits"));
            }
        } else if let Some(value) = line.strip_prefix(b"transfer-encoding:") {
            codings += 1;
            let value = value.trim_ascii();
            let tokens: Vec<&[u8]> = value.split(|it| *it == b',').map(<[u8]>::trim_ascii).collect();
            if !tokens
                .iter()
                .all(|it| !it.is_empty() && it.iter().all(u8::is_ascii_lowercase))
            {
                return Err(Stop::Odd);
            }
            body = if tokens.last() == Some(&b"chunked".as_slice()) {
                Body::Chunked
            } else {
                Body::UntilClose
            };
        }
    }
    if lengths > 1 || codings > 1 {
        return Err(Stop::Odd);
    }
    Ok(body)
}

fn skip(rest: &mut &[u8], body: &Body) -> Result<(), Stop> {
    match body {
        Body::None | Body::UntilClose => Ok(()),
        Body::Length(length) => take(rest, *length),
        Body::Chunked => loop {
            let digits = rest.iter().take_while(|it| it.is_ascii_hexdigit()).count();
            let follows = rest.get(digits);
            if digits > 8 || follows.is_some_and(|it| digits == 0 || !b"; \t\r\n".contains(it)) {
                return Err(Stop::Odd);
            }
            let line = line(rest)?;
            let size = std::str::from_utf8(&line[..digits]).expect("digits");
            let size = usize::from_str_radix(size, 16).expect("eight digits");
            if size == 0 {
                head_lines(rest)?;
                return Ok(());
            }
            take(rest, size)?;
            match **rest {
                [] | [b'\r'] => return Err(Stop::End),
                [b'\n', ..] => take(rest, 1)?,
                [b'\r', b'\n', ..] => take(rest, 2)?,
                _ => return Err(Stop::Odd),
            }
        },
    }
}

fn take(rest: &mut &[u8], count: usize) -> Result<(), Stop> {
    *rest = rest.get(count..).ok_or(Stop::End)?;
    Ok(())
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
