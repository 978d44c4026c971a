//! Images that runs need before a container has them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::Images;

/// How often each image is claimed.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<HashMap<String, usize>>);

/// While it lives, no request of ours removes the image.
#[derive(Debug)]
pub(in crate::app) struct Claim {
    id: String,
    claims: Arc<Claims>,
}

impl Images {
    /// A run needs this image, before its container says so.
    pub(super) fn claim(&self, id: &str) -> Claim {
        let mut claims = self.claims.0.lock().unwrap_or_else(PoisonError::into_inner);
        *claims.entry(id.to_owned()).or_default() += 1;
        Claim { id: id.to_owned(), claims: self.claims.clone() }
    }

    pub(super) fn is_claimed(&self, id: &str) -> bool {
        self.claims.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = self.claims.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = claims.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                claims.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_claimed_until_the_last_run_lets_it_go() {
        let images = Images::default();
        let (one, two) = (images.claim("a"), images.claim("a"));
        drop(one);
        assert!(images.is_claimed("a") && !images.is_claimed("b"));
        drop(two);
        assert!(!images.is_claimed("a"));
    }
}
