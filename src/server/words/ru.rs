//! What each problem is called in Russian. Must not know how it is answered.

use super::quota;
use crate::engine::EngineError;
use crate::lang::Lang;
use crate::server::problem::{Problem, Reason};

/// The message of `problem`, which is about this field.
pub(super) fn message(problem: &Problem, field: &str) -> String {
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
        Problem::Invalid(reason) => self::reason(reason, field),
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
        Problem::RateLimited(refusal) => quota::refusal(Lang::Ru, refusal),
        Problem::Quota { account, .. } => quota::short(Lang::Ru, account),
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

fn reason(reason: &Reason, field: &str) -> String {
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
