//! Who asks, as far as caches have to know: what one caller left is found by no other, and not under another label.
//!
//! The guard says who has come in, an [`crate::ask::Ask`] asks for it. A caller is what it showed (its token), and the user
//! that it names; whoever shows and names nothing shares with others who do neither.

use axum::http::{HeaderMap, HeaderValue, header};
use heph_engine::batch::Asker;
use heph_engine::prefix::{Owner, Reach, Share};
use heph_privacy::label::Level;
use heph_runtime::cancel::Cancel;

use crate::ask::Wishes;
use crate::engines::CacheChoice;
use crate::error::Refusal;
use crate::guard::shown;
use crate::machines::Privacy;
use crate::pairing::Pairings;

tokio::task_local! {
    static CALLER: Caller;
}

/// Who sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The hash of what it showed.
    showed: [u8; 32],
    /// Of a page that was let in, the hash of its token alone: what else it shows is for it to choose.
    page: Option<[u8; 32]>,
}

impl Caller {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("HEPH 2026-11 what a caller shows");
        for name in [header::AUTHORIZATION.as_str(), "x-api-key"] {
            add(&mut hasher, headers.get(name).map_or(&[], HeaderValue::as_bytes));
        }
        Self {
            showed: hasher.finalize().into(),
            page: shown(headers)
                .into_iter()
                .find(|token| Pairings::is_token(token))
                .map(|token| blake3::hash(token.as_bytes()).into()),
        }
    }

    /// Whose request is being carried out here.
    pub(crate) fn now() -> Option<Self> {
        CALLER.try_with(|caller| *caller).ok()
    }

    /// Carries out this caller's request.
    pub(crate) async fn asks<F: Future>(self, request: F) -> F::Output {
        CALLER.scope(self, request).await
    }
}

/// How far what is computed for a request may be kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keeping {
    /// Where nothing is said against it.
    usual: Reach,
    /// Where nothing may leave this machine.
    private: Reach,
}

impl Keeping {
    pub(crate) fn of(choice: &CacheChoice) -> Self {
        let usual = match choice.disk {
            Some(_) => Reach::Disk,
            None => Reach::Memory,
        };
        // A file outlives the request, and a disk may leave the house: that is for the person to say.
        let private = if choice.disk_private { usual } else { Reach::Memory };
        Self { usual, private }
    }
}

/// Whom what is computed for this request may serve again. Outside of a request it serves nobody.
pub(crate) fn share(wishes: &Wishes, user: Option<&str>, keeping: Keeping) -> Result<Share, Refusal> {
    let stays_home = wishes.privacy()? == Privacy::Nothing || wishes.label()?.level() >= Level::Private;
    let Some(caller) = Caller::now() else {
        return Ok(Share::NONE);
    };
    let mut hasher = blake3::Hasher::new_derive_key("HEPH 2026-11 owner of a cache");
    hasher.update(&caller.showed);
    add(&mut hasher, user.unwrap_or_default().as_bytes());
    let label = wishes.privacy.as_deref().unwrap_or("policy");
    add(&mut hasher, label.as_bytes());
    // Each label for itself, in whatever order they were named.
    for tag in wishes.label()?.tags() {
        add(&mut hasher, tag.as_bytes());
    }
    Ok(Share {
        owner: Owner(hasher.finalize().into()),
        reach: if stays_home {
            keeping.private
        } else {
            keeping.usual
        },
    })
}

/// Whether a page or an extension asks that was let in.
pub(crate) fn is_page() -> bool {
    Caller::now().is_some_and(|caller| caller.page.is_some())
}

/// Whose turn this request takes where others wait, too. Programs of the person may name the users that they ask for; a page that
/// was let in has one turn, whatever it names.
pub(crate) fn asker(user: Option<&str>) -> Asker {
    let Some(Caller { showed, page }) = Caller::now() else {
        return Asker::default();
    };
    let (who, user) = match page {
        Some(page) => (page, ""),
        None => (showed, user.unwrap_or_default()),
    };
    let mut hasher = blake3::Hasher::new_derive_key("HEPH 2026-11 whose turn it is");
    add(hasher.update(&who), user.as_bytes());
    let mut number = [0; 8];
    hasher.finalize_xof().fill(&mut number);
    Asker(u64::from_le_bytes(number))
}

/// Does `work` of a caller's request on a thread that others do not wait for; there, too, it is that caller's. The flag that it is given
/// is raised once the caller has gone; what has not begun by then is not begun.
pub(crate) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce(&Cancel) -> T + Send + 'static,
) -> Result<T, Refusal> {
    let caller = Caller::now();
    let leaving = Leaving(Cancel::new());
    let cancel = leaving.0.clone();
    let done = tokio::task::spawn_blocking(move || {
        waits(&cancel)?;
        Ok::<T, Refusal>(match caller {
            Some(caller) => CALLER.sync_scope(caller, || work(&cancel)),
            None => work(&cancel),
        })
    });
    done.await.map_err(Refusal::ours)?
}

/// That somebody still waits for what is made ready. The refusal is read by nobody.
pub(crate) fn waits(cancel: &Cancel) -> Result<(), Refusal> {
    match cancel.is_raised() {
        true => Err(Refusal::ours("nobody waits for this any more")),
        false => Ok(()),
    }
}

/// Raises the flag when whoever waits goes.
struct Leaving(Cancel);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.raise();
    }
}

/// What this caller's pseudonyms are drawn from: those of one caller and user are not those of another.
pub(crate) fn pseudonym_key(secret: &[u8; 32], user: Option<&str>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    if let Some(Caller { showed, .. }) = Caller::now() {
        hasher.update(&showed);
    }
    add(&mut hasher, user.unwrap_or("").as_bytes());
    hasher.finalize().into()
}

/// Adds a text of any length, so that no two lists of texts are the same bytes.
fn add(hasher: &mut blake3::Hasher, text: &[u8]) {
    hasher.update(&(text.len() as u64).to_le_bytes()).update(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: CacheChoice = CacheChoice {
        ram: None,
        disk: Some(1 << 20),
        disk_private: false,
    };

    fn shared(token: &'static str, user: Option<&str>, privacy: Option<&str>, choice: &CacheChoice) -> Share {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(token))]);
        let wishes = Wishes {
            privacy: privacy.map(str::to_owned),
            ..Wishes::default()
        };
        let asked = async { share(&wishes, user, Keeping::of(choice)) };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(Caller::of(&headers).asks(asked)).unwrap()
    }

    #[test]
    fn callers_users_and_labels_have_nothing_in_common() {
        let asked = [
            ("Bearer a", None, None),
            ("Bearer b", None, None),
            ("Bearer a", Some("ann"), None),
            ("Bearer a", Some("bob"), None),
            ("Bearer a", None, Some("own")),
            ("Bearer a", None, Some("nothing")),
            ("", Some("Bearer a"), None),
            ("", None, None),
        ];
        let owners: Vec<_> = asked.map(|(t, u, p)| shared(t, u, p, &DISK).owner).into();
        for (at, owner) in owners.iter().enumerate() {
            assert!(!owners[..at].contains(owner), "{:?}", asked[at]);
        }
        // The label that counts where none is named is a label like any other.
        assert_eq!(shared("Bearer a", None, Some("policy"), &DISK).owner, owners[0]);
    }

    #[test]
    fn a_word_of_the_policy_is_a_label_of_caches_too() {
        let owner = |labels: &[&str]| {
            let wishes = Wishes {
                labels: Some(labels.iter().map(|&word| word.to_owned()).collect()),
                ..Wishes::default()
            };
            let asked = async { share(&wishes, None, Keeping::of(&DISK)).unwrap() };
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let share = runtime.block_on(Caller::of(&HeaderMap::new()).asks(asked));
            (share.owner, share.reach)
        };
        let plain = shared("", None, None, &DISK).owner;
        let (salaries, reach) = owner(&["salaries"]);
        assert!(
            salaries != plain
                && salaries != owner(&["works"]).0
                && salaries != owner(&["salaries", "works"]).0
        );
        assert_eq!(owner(&["works", "salaries"]), owner(&["salaries", "works"]));
        assert_eq!(
            reach,
            Reach::Memory,
            "what is private is not written on a disk unasked"
        );
        let levels =
            ["public", "internal", "private", "secret"].map(|word| shared("", None, Some(word), &DISK).owner);
        assert!(
            levels
                .iter()
                .enumerate()
                .all(|(at, owner)| !levels[..at].contains(owner) && *owner != plain)
        );
    }

    #[test]
    fn what_stays_on_this_machine_is_written_only_where_a_person_said_so() {
        let reach = |privacy, choice: &CacheChoice| shared("", None, privacy, choice).reach;
        let said = CacheChoice {
            disk_private: true,
            ..DISK
        };
        let off = CacheChoice {
            disk: None,
            ..said.clone()
        };
        assert_eq!(reach(None, &DISK), Reach::Disk);
        assert_eq!(reach(Some("nothing"), &DISK), Reach::Memory);
        assert_eq!(reach(Some("nothing"), &said), Reach::Disk);
        assert_eq!(
            (reach(None, &off), reach(Some("nothing"), &off)),
            (Reach::Memory, Reach::Memory)
        );
    }

    #[test]
    fn a_thread_that_works_for_a_caller_draws_that_callers_pseudonyms() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let drawn = |token: &'static str, user: Option<&'static str>| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(token))]);
            let work = on_thread(move |_| pseudonym_key(&[7; 32], user));
            runtime.block_on(Caller::of(&headers).asks(work)).unwrap()
        };
        let ann = drawn("Bearer a", None);
        assert_eq!(drawn("Bearer a", None), ann);
        assert_ne!(drawn("Bearer b", None), ann);
        assert_ne!(drawn("Bearer a", Some("ann")), ann);
        let unknown = runtime
            .block_on(on_thread(|_| pseudonym_key(&[7; 32], None)))
            .unwrap();
        assert_ne!(unknown, ann);
    }

    #[test]
    fn callers_and_users_have_turns_of_their_own_and_a_page_has_one() {
        let turn = |token: &str, key: &'static str, user: Option<&str>| {
            let token = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
            let key_name = header::HeaderName::from_static("x-api-key");
            let headers = HeaderMap::from_iter([
                (header::AUTHORIZATION, token),
                (key_name, HeaderValue::from_static(key)),
            ]);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(Caller::of(&headers).asks(async { asker(user) }))
        };
        let ann = turn("a", "", Some("ann"));
        assert_eq!(turn("a", "", Some("ann")), ann);
        assert_ne!(turn("a", "", Some("bob")), ann);
        assert_ne!(turn("b", "", Some("ann")), ann);
        let page = format!("{}1", crate::pairing::PREFIX);
        assert_eq!(turn(&page, "x", Some("ann")), turn(&page, "y", Some("bob")));
        let other = format!("{}2", crate::pairing::PREFIX);
        assert_ne!(turn(&page, "x", None), turn(&other, "x", None));
    }

    #[test]
    fn what_is_made_ready_for_somebody_who_went_ends_and_what_has_not_begun_is_not_begun() {
        use std::sync::mpsc::channel;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .enable_time()
            .build()
            .unwrap();
        let (say, said) = channel();
        let patience = std::time::Duration::from_secs(10);
        runtime.block_on(async {
            let (begun, begins) = channel();
            let first = on_thread({
                let say = say.clone();
                move |cancel: &Cancel| {
                    begun.send(()).unwrap();
                    let began = std::time::Instant::now();
                    while !cancel.is_raised() && began.elapsed() < patience {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                    say.send(cancel.is_raised()).unwrap();
                }
            });
            let first = tokio::spawn(first);
            tokio::task::yield_now().await;
            begins.recv_timeout(patience).unwrap();
            // The only thread is taken, so this one waits for it.
            let second = tokio::spawn(on_thread({
                let say = say.clone();
                move |_: &Cancel| say.send(false).unwrap()
            }));
            tokio::task::yield_now().await;
            for gone in [second, first] {
                gone.abort();
                assert!(gone.await.unwrap_err().is_cancelled());
            }
            let third = on_thread(move |_: &Cancel| drop(say));
            third.await.unwrap();
        });
        assert_eq!(
            said.iter().collect::<Vec<_>>(),
            [true],
            "the second was not begun"
        );
    }

    #[test]
    fn nothing_is_shared_by_somebody_unknown() {
        let share = share(&Wishes::default(), None, Keeping::of(&DISK));
        assert_eq!(share.unwrap(), Share::NONE);
    }
}
