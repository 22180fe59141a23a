//! The words of every problem in English and Russian, and the choice between them. Codes and statuses never depend on
//! the language.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT_LANGUAGE;

use super::problem::{Problem, Reason};
use super::quota_words;
use crate::engine::EngineError;
use crate::lang::Lang;

/// The language that `Accept-Language` prefers; English where it names neither.
pub fn language(headers: &HeaderMap) -> Lang {
    let header = headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut best = (0.0, Lang::En);
    for entry in header.split(',') {
        let (tag, parameters) = entry.split_once(';').unwrap_or((entry, ""));
        let quality = parameters.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse).unwrap_or(0.0_f32);
        let primary = tag.trim().split('-').next().unwrap_or_default().to_ascii_lowercase();
        let language = match primary.as_str() {
            "ru" => Lang::Ru,
            "en" => Lang::En,
            _ => continue,
        };
        if quality > best.0 {
            best = (quality, language);
        }
    }
    best.1
}

/// The message of `problem`; `param` is the field it is about.
pub fn message(lang: Lang, problem: &Problem, param: Option<&str>) -> String {
    let field = param.unwrap_or("body");
    match lang {
        Lang::En => english(problem, field),
        Lang::Ru => russian(problem, field),
    }
}
fn english(problem: &Problem, field: &str) -> String {
    match problem {
        Problem::NotUtf8 => "The body is not valid UTF-8; send JSON in UTF-8.".into(),
        Problem::NotJson { detail, line, column } => {
            format!("The body is not valid JSON: {detail} at line {line} column {column}.")
        }
        Problem::TooLarge(limit) => format!("The body is larger than {limit} bytes, the most this server takes."),
        Problem::NotJsonType => "The body must be JSON: send the header `Content-Type: application/json`.".into(),
        Problem::Encoded(coding) => format!("Bodies compressed with `{coding}` are not taken; send plain JSON."),
        Problem::SlowBody => "The body did not arrive in time; send it again.".into(),
        Problem::BrokenBody => "The body broke off before its end; send it again.".into(),
        Problem::Missing => format!("`{field}` is required."),
        Problem::Mismatch(mismatch) => format!("`{field}` must be {}.", mismatch.told(Lang::En)),
        Problem::Repeated(key) => format!("`{field}` has the key `{key}` twice."),
        Problem::Malformed(detail) => format!("`{field}` is not valid: {detail}."),
        Problem::OutOfRange { low, high } => format!("`{field}` must be from {low} to {high}."),
        Problem::Invalid(reason) => english_reason(reason, field),
        Problem::NotBuilt => format!("`{field}` is not supported by this server; leave it out."),
        Problem::ContextLength { limit, prompt, completion } => format!(
            "This model's maximum context length is {limit} tokens, but {total} were asked for ({prompt} in the prompt, \
             {completion} for the answer). Shorten the prompt or ask for a shorter answer.",
            total = prompt + completion
        ),
        Problem::Template(detail) => format!("The model's chat template does not take these messages: {detail}."),
        Problem::NoCredential => "Who asks? Send `Authorization: Bearer` with an API key or an access token.".into(),
        Problem::BadCredential => "The API key or access token is wrong, expired or revoked.".into(),
        Problem::NotAllowed(scope) => {
            format!("This credential may not be used for this; it lacks `{}`.", scope.as_str())
        }
        Problem::ModelNotAllowed(model) => format!("This API key may not be used with the model `{model}`."),
        Problem::NoObject(name) => format!("There is no {name}."),
        Problem::Exists(name) => format!("`{name}` exists already."),
        Problem::IdempotencyReused => "This Idempotency-Key was used for another request; take a new one.".into(),
        Problem::OwnAccount => "Nobody may shut themselves out; another administrator can.".into(),
        Problem::Store => "The server's database does not answer. Try again in a few seconds.".into(),
        Problem::Identity => "The credential cannot be checked now. Try again in a minute.".into(),
        Problem::Audit => "The audit log cannot be written, and nothing is done without it. Try again later.".into(),
        Problem::Host(host) => format!("This server is not to be addressed as `{host}`; its administrator says how."),
        Problem::NoModel(model) => {
            format!("The model `{model}` does not exist here; GET /v1/models lists those that do.")
        }
        Problem::NoRoute(path) => format!("There is nothing at {path}; see /docs for what there is."),
        Problem::NoMethod(method) => format!("This address does not take {method}; see /docs."),
        Problem::RateLimited(refusal) => quota_words::refusal(Lang::En, refusal),
        Problem::Quota { account, .. } => quota_words::short(Lang::En, account),
        Problem::Overloaded(_) => "The server is overloaded: its queue is full. Try again later.".into(),
        Problem::ModelResting(_) => "The model has failed several times and is left alone. Try again later.".into(),
        Problem::Loading => "The model is still loading. Try again in a few seconds.".into(),
        Problem::Stopping => "The server is stopping and takes no new requests.".into(),
        Problem::Deadline => "The answer took longer than the server allows; ask for a shorter one.".into(),
        Problem::Engine(error) => format!("The model failed on this request: {error}."),
        Problem::Internal => "The server failed on this request; its log says why.".into(),
    }
}

fn english_reason(reason: &Reason, field: &str) -> String {
    match reason {
        Reason::Empty => format!("`{field}` must not be empty."),
        Reason::TooMany(limit) => format!("`{field}` asks for too many: at most {limit}."),
        Reason::TokenId { id, vocabulary } => {
            format!("`{field}` names token {id}, but the model has only tokens 0 to {}.", vocabulary.saturating_sub(1))
        }
        Reason::NotATokenId(key) => format!("`{field}` has the key `{key}`, which is not a token id."),
        Reason::Role(role) => format!("`{field}` is `{role}`; system, developer, user, assistant and tool are known."),
        Reason::Part(kind) => format!("`{field}` is `{kind}`; this model takes only text."),
        Reason::Needs(other) => format!("`{field}` needs `{other}`."),
        Reason::Excludes(other) => format!("`{field}` cannot be given together with `{other}`."),
        Reason::UserName => {
            format!("`{field}` must have 1 to 128 bytes, no control characters and no space around it.")
        }
        Reason::Amount => format!("`{field}` is no amount that can be booked."),
        Reason::Day => format!("`{field}` must be a day such as 2026-01-31."),
        Reason::Moment => {
            format!("`{field}` must be a day such as 2026-01-31, or a moment such as 2026-01-31T15:00:00Z.")
        }
        Reason::Short(least) => format!("`{field}` must have at least {least} characters."),
        Reason::Word(known) => format!("`{field}` must be one of: {known}."),
        Reason::Below(least) => format!("`{field}` must be at least {least}."),
        Reason::Above(other) => format!("`{field}` must not be larger than `{other}`."),
    }
}

fn russian(problem: &Problem, field: &str) -> String {
    match problem {
        Problem::NotUtf8 => "Тело запроса не в UTF-8; пришлите JSON в UTF-8.".into(),
        Problem::NotJson { line, column, .. } => {
            format!("Тело запроса — не JSON: ошибка в строке {line}, столбце {column}.")
        }
        Problem::TooLarge(limit) => format!("Тело запроса больше {limit} байт — больше этот сервер не принимает."),
        Problem::NotJsonType => "Тело должно быть JSON: пришлите заголовок `Content-Type: application/json`.".into(),
        Problem::Encoded(coding) => format!("Тела, сжатые `{coding}`, не принимаются; пришлите обычный JSON."),
        Problem::SlowBody => "Тело запроса не пришло вовремя; повторите запрос.".into(),
        Problem::BrokenBody => "Тело запроса оборвалось; повторите запрос.".into(),
        Problem::Missing => format!("Поле `{field}` обязательно."),
        Problem::Mismatch(mismatch) => format!("Поле `{field}` должно быть {}.", mismatch.told(Lang::Ru)),
        Problem::Repeated(key) => format!("В поле `{field}` дважды есть ключ `{key}`."),
        Problem::Malformed(detail) => format!("Поле `{field}` неверно: {detail}."),
        Problem::OutOfRange { low, high } => format!("Поле `{field}` должно быть от {low} до {high}."),
        Problem::Invalid(reason) => russian_reason(reason, field),
        Problem::NotBuilt => format!("Поле `{field}` этим сервером не поддерживается; уберите его."),
        Problem::ContextLength { limit, prompt, completion } => format!(
            "Контекст модели — не более {limit} токенов, а запрошено {total} ({prompt} в запросе, {completion} на \
             ответ). Сократите запрос или попросите ответ короче.",
            total = prompt + completion
        ),
        Problem::Template(detail) => format!("Шаблон чата модели не принимает эти сообщения: {detail}."),
        Problem::NoCredential => "Кто спрашивает? Пришлите `Authorization: Bearer` с ключом API или токеном.".into(),
        Problem::BadCredential => "Ключ API или токен неверен, истёк или отозван.".into(),
        Problem::NotAllowed(scope) => {
            format!("С этим ключом или токеном сюда нельзя: не хватает `{}`.", scope.as_str())
        }
        Problem::ModelNotAllowed(model) => format!("Этот ключ API не годится для модели `{model}`."),
        Problem::NoObject(name) => format!("Такого нет: {name}."),
        Problem::Exists(name) => format!("`{name}` уже есть."),
        Problem::IdempotencyReused => "Этот Idempotency-Key уже был у другого запроса; возьмите новый.".into(),
        Problem::OwnAccount => "Самого себя отключить нельзя; это может другой администратор.".into(),
        Problem::Store => "База данных сервера не отвечает. Повторите через несколько секунд.".into(),
        Problem::Identity => "Сейчас нельзя проверить учётные данные. Повторите через минуту.".into(),
        Problem::Audit => "Журнал аудита не записывается, а без него сервер не работает. Повторите позже.".into(),
        Problem::Host(host) => format!("К этому серверу нельзя обращаться как `{host}`; как — знает администратор."),
        Problem::NoModel(model) => format!("Модели `{model}` здесь нет; список — GET /v1/models."),
        Problem::NoRoute(path) => format!("По адресу {path} ничего нет; что есть — см. /docs."),
        Problem::NoMethod(method) => format!("Этот адрес не принимает {method}; см. /docs."),
        Problem::RateLimited(refusal) => quota_words::refusal(Lang::Ru, refusal),
        Problem::Quota { account, .. } => quota_words::short(Lang::Ru, account),
        Problem::Overloaded(_) => "Сервер перегружен: очередь заполнена. Повторите позже.".into(),
        Problem::ModelResting(_) => "Модель несколько раз отказала, пока её не трогают. Повторите позже.".into(),
        Problem::Loading => "Модель ещё загружается. Повторите через несколько секунд.".into(),
        Problem::Stopping => "Сервер останавливается и не принимает новых запросов.".into(),
        Problem::Deadline => "Ответ занял больше времени, чем разрешено; попросите ответ короче.".into(),
        Problem::Engine(error) => match error {
            EngineError::NotFinite => "Модель не справилась с этим запросом: она выдала не число.".into(),
            EngineError::Step(detail) => format!("Модель не справилась с этим запросом: шаг не удался ({detail})."),
            EngineError::Stopped => "Модель не справилась с этим запросом: она остановлена.".into(),
        },
        Problem::Internal => "Сбой сервера на этом запросе; причина — в его журнале.".into(),
    }
}

fn russian_reason(reason: &Reason, field: &str) -> String {
    match reason {
        Reason::Empty => format!("Поле `{field}` не должно быть пустым."),
        Reason::TooMany(limit) => format!("Поле `{field}` просит слишком много: не более {limit}."),
        Reason::TokenId { id, vocabulary } => {
            format!("Поле `{field}` называет токен {id}, а у модели только от 0 до {}.", vocabulary.saturating_sub(1))
        }
        Reason::NotATokenId(key) => format!("В поле `{field}` ключ `{key}` — не номер токена."),
        Reason::Role(role) => format!("Поле `{field}` — `{role}`; есть system, developer, user, assistant и tool."),
        Reason::Part(kind) => format!("Поле `{field}` — `{kind}`; эта модель принимает только текст."),
        Reason::Needs(other) => format!("Поле `{field}` требует поля `{other}`."),
        Reason::Excludes(other) => format!("Поле `{field}` нельзя указывать вместе с `{other}`."),
        Reason::UserName => {
            format!("Поле `{field}` — от 1 до 128 байт, без управляющих символов и без пробелов по краям.")
        }
        Reason::Amount => format!("Поле `{field}` — не сумма, которую можно провести."),
        Reason::Day => format!("Поле `{field}` — день вида 2026-01-31."),
        Reason::Moment => format!("Поле `{field}` — день вида 2026-01-31 или момент вида 2026-01-31T15:00:00Z."),
        Reason::Short(least) => format!("В поле `{field}` должно быть не меньше {least} символов."),
        Reason::Word(known) => format!("Поле `{field}` — одно из: {known}."),
        Reason::Below(least) => format!("Поле `{field}` должно быть не меньше {least}."),
        Reason::Above(other) => format!("Поле `{field}` не должно быть больше `{other}`."),
    }
}
