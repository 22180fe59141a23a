//! `/admin/users` and `/admin/departments`.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::{LimitsBody, List};
use crate::auth::{Account, AccountChange};
use crate::server::AppState;
use crate::server::body::{FromBody, JsonBody, fields};
use crate::server::client::Client;
use crate::server::error::{ApiError, ErrorBody};
use crate::server::problem::{Problem, Reason};
use crate::server::trail::Deed;
use crate::store::{Department, Role, User};

/// A user.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserObject {
    /// Made by the server.
    pub id: String,
    /// `user`.
    pub object: &'static str,
    /// What they log in with.
    pub username: String,
    /// `admin` or `user`.
    pub role: &'static str,
    /// Who vouches for them: `local`, `directory` or `issuer`.
    pub source: &'static str,
    /// Id of the department.
    #[schema(required = true)]
    pub department_id: Option<String>,
    /// Shut out.
    pub disabled: bool,
    /// When they were added, seconds since 1970.
    pub created: i64,
    /// The password that was made for them, shown once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

impl From<User> for UserObject {
    fn from(user: User) -> Self {
        Self {
            id: user.id,
            object: "user",
            username: user.name,
            role: user.role.as_str(),
            source: user.source.as_str(),
            department_id: user.department_id,
            disabled: user.disabled,
            created: user.created_at / 1000,
            password: None,
        }
    }
}

/// A department.
#[derive(Debug, Serialize, ToSchema)]
pub struct DepartmentObject {
    /// Made by the server.
    pub id: String,
    /// `department`.
    pub object: &'static str,
    /// Unique.
    pub name: String,
    /// Limits of its own.
    pub limits: LimitsBody,
}

impl From<Department> for DepartmentObject {
    fn from(department: Department) -> Self {
        let limits = LimitsBody::read(&department.limits);
        Self { id: department.id, object: "department", name: department.name, limits }
    }
}

/// A user to be added.
#[derive(Debug, Deserialize, ToSchema)]
pub struct NewUserBody {
    /// What they log in with.
    pub username: String,
    /// Absent: one is made and shown once.
    #[schema(min_length = 8)]
    pub password: Option<String>,
    /// `admin` or `user`, which is meant where it is absent.
    pub role: Option<String>,
    /// Name of the department, which is made when there is none.
    pub department: Option<String>,
}

/// What to change of a user; what is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
pub struct UserChangeBody {
    /// A new password, which voids the tokens issued before.
    #[schema(min_length = 8)]
    pub password: Option<String>,
    /// `admin` or `user`.
    pub role: Option<String>,
    /// Name of the department, which is made when there is none.
    pub department: Option<String>,
    /// Shut out, or let in again.
    pub disabled: Option<bool>,
}

impl FromBody for NewUserBody {
    fn from_body(text: &str) -> Result<Self, ApiError> {
        fields(text)
    }
}

impl FromBody for UserChangeBody {
    fn from_body(text: &str) -> Result<Self, ApiError> {
        fields(text)
    }
}

/// List the users by name.
#[utoipa::path(
    get, path = "/admin/users", tag = "Administration",
    responses(
        (status = 200, description = "All users", body = List<UserObject>),
        (status = "4XX", description = "Not for this credential", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn list_users(State(state): State<AppState>) -> Result<Json<List<UserObject>>, ApiError> {
    Ok(Json(List::of(state.auth.store().users().await?)))
}

/// Add a user.
#[utoipa::path(
    post, path = "/admin/users", tag = "Administration",
    request_body = NewUserBody,
    responses(
        (status = 201, description = "The user", body = UserObject),
        (status = "4XX", description = "Not like this", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn add_user(
    State(state): State<AppState>,
    JsonBody(body): JsonBody<NewUserBody>,
) -> Result<(StatusCode, Extension<Deed>, Json<UserObject>), ApiError> {
    let role = body.role.map_or(Ok(Role::User), |role| parse_role(&role))?;
    let account = Account { name: body.username, password: body.password, role, department: body.department };
    let (user, password) = state.auth.add_user(account).await?;
    let told = json!({"username": user.name, "role": user.role.as_str(), "department_id": user.department_id});
    let deed = Extension(Deed::to(format!("user:{}", user.id), told));
    Ok((StatusCode::CREATED, deed, Json(UserObject { password, ..user.into() })))
}

/// Show a user.
#[utoipa::path(
    get, path = "/admin/users/{id}", tag = "Administration",
    params(("id" = String, Path, description = "Id or name of the user")),
    responses(
        (status = 200, description = "The user", body = UserObject),
        (status = "4XX", description = "There is no such user", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn get_user(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<UserObject>, ApiError> {
    Ok(Json(state.auth.find_user(&id).await?.into()))
}

/// Change a user.
#[utoipa::path(
    patch, path = "/admin/users/{id}", tag = "Administration",
    params(("id" = String, Path, description = "Id or name of the user")),
    request_body = UserChangeBody,
    responses(
        (status = 200, description = "The user", body = UserObject),
        (status = "4XX", description = "Not like this", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn change_user(
    State(state): State<AppState>,
    client: Client,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<UserChangeBody>,
) -> Result<(Extension<Deed>, Json<UserObject>), ApiError> {
    let UserChangeBody { password, role, department, disabled } = body;
    let role = role.as_deref().map(parse_role).transpose()?;
    let user = state.auth.find_user(&id).await?;
    if user.id == client.identity.user_id && (disabled == Some(true) || role == Some(Role::User)) {
        return Err(Problem::OwnAccount.into());
    }
    let mut told = json!({"username": user.name, "password_changed": password.is_some()});
    let changes = [
        ("role", role.map(|role| role.as_str().into())),
        ("department", department.as_deref().map(Into::into)),
        ("disabled", disabled.map(Into::into)),
    ];
    for (name, value) in changes.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        told[name] = value;
    }
    let change = AccountChange { password, role, department, disabled };
    let changed = state.auth.change_user(&user.id, change).await?;
    Ok((Extension(Deed::to(format!("user:{}", user.id), told)), Json(changed.into())))
}

/// List the departments by name.
#[utoipa::path(
    get, path = "/admin/departments", tag = "Administration",
    responses(
        (status = 200, description = "All departments", body = List<DepartmentObject>),
        (status = "4XX", description = "Not for this credential", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn list_departments(State(state): State<AppState>) -> Result<Json<List<DepartmentObject>>, ApiError> {
    Ok(Json(List::of(state.auth.store().departments().await?)))
}

/// What to change of a department.
#[derive(Debug, Deserialize, ToSchema)]
pub struct DepartmentChangeBody {
    /// In the place of those that it had.
    pub limits: LimitsBody,
}

impl FromBody for DepartmentChangeBody {
    fn from_body(text: &str) -> Result<Self, ApiError> {
        fields(text)
    }
}

/// Give a department limits of its own.
#[utoipa::path(
    patch, path = "/admin/departments/{id}", tag = "Administration",
    params(("id" = String, Path, description = "Id of the department")),
    request_body = DepartmentChangeBody,
    responses(
        (status = 204, description = "They count from now on"),
        (status = "4XX", description = "There is no such department", body = ErrorBody),
        (status = "5XX", description = "The database does not answer", body = ErrorBody),
    )
)]
pub async fn change_department(
    State(state): State<AppState>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<DepartmentChangeBody>,
) -> Result<(StatusCode, Extension<Deed>), ApiError> {
    let limits = serde_json::to_string(&body.limits).unwrap_or_default();
    state.auth.store().set_department_limits(&id, &limits).await?;
    let deed = Deed::to(format!("department:{id}"), json!({"limits": body.limits}));
    Ok((StatusCode::NO_CONTENT, Extension(deed)))
}

fn parse_role(text: &str) -> Result<Role, ApiError> {
    text.parse().map_err(|_| ApiError::invalid("role", Reason::Word("admin, user")))
}
