//! The contract of stores on SQLite.

mod common;

use common::{Folder, Sqlite, contract};

macro_rules! on_sqlite {
    ($($test:ident)*) => {
        $(
            #[test]
            fn $test() {
                let folder = Folder::new(stringify!($test));
                let &(_, test) = contract::CONTRACT
                    .iter()
                    .find(|(name, _)| *name == stringify!($test))
                    .expect("a test of the suite");
                test(&Sqlite(folder.0.join("location.db")));
            }
        )*

        #[test]
        fn all_of_the_suite_is_run() {
            assert_eq!(contract::CONTRACT.len(), [$(stringify!($test)),*].len());
        }
    };
}

on_sqlite! {
    the_oldest_contact_makes_room
    a_phone_that_starts_again_evicts_itself
    a_repeated_request_moves_to_its_newer_way
    a_repeated_star_spares_what_came_after_it
    strange_text_stays_text
    five_thousand_contacts_hurt_nobody_else
    a_clock_far_ahead_forgets_nothing
    a_clock_far_ahead_spares_what_others_write_later
    saves_are_conditional_on_call_id_and_cseq
    several_contacts_are_saved_all_or_none
    removals_are_remembered
    removals_of_one_address_are_bounded
    a_star_removes_everything
    a_flow_replaces_its_contact
    bindings_end_by_themselves
    other_writers_and_later_processes_see_changes
    a_claim_has_one_owner
    ended_leases_are_forgotten_after_an_hour
    simultaneous_claims_have_one_winner
    users_are_put_replaced_and_removed
    users_are_listed_in_pages
    other_processes_see_users
    revisions_follow_commits
}
