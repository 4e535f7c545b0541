// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef, useSyncExternalStore } from "react";
import { NavLink, Outlet, useLocation } from "react-router";
import { api } from "../lib/api";
import { milliseconds, useConnection, useSession } from "../lib/context";
import { count, moment, RUN_WORDS } from "../lib/format";
import { announce, useAnnouncement } from "../lib/hooks";
import { useBalance, useStatus } from "../lib/queries";
import { chooseTheme, type Choice, useThemeChoice } from "../lib/theme";
import { isActive } from "../lib/types";

const PAGES = [
  ["/", "Launch"],
  ["/runs", "Runs"],
  ["/logs", "Logs"],
  ["/numbers", "Numbers"],
  ["/ledger", "Ledger"],
  ["/settings", "Settings"],
] as const;

export function Layout() {
  const { push } = useSession();
  const location = useLocation();
  const main = useRef<HTMLElement>(null);
  const firstPath = useRef(location.pathname);

  useEffect(() => push.onRun((run) => {
    if (!isActive(run)) announce(`${run.title} ${RUN_WORDS[run.status]}`);
  }), [push]);

  // A new page begins at its top, for the keyboard as for the eye.
  useEffect(() => {
    if (firstPath.current === location.pathname) return;
    firstPath.current = location.pathname;
    main.current?.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }, [location.pathname]);

  return (
    <>
      <a className="skip" href="#main">Skip to the content</a>
      <header className="top">
        <div className="top-line">
          <NavLink to="/" className="brand"><img src="/icon.svg" alt="" width="26" height="26" />Job launcher</NavLink>
          <BalanceLine />
          <ThemeSwitch />
          <Account />
        </div>
        <nav aria-label="Pages">
          <ul>
            {PAGES.map(([path, name]) => (
              <li key={path}><NavLink to={path} end={path === "/"}>{name}</NavLink></li>
            ))}
          </ul>
        </nav>
      </header>
      <Banners />
      <main id="main" ref={main} tabIndex={-1}><Outlet /></main>
      <Announcer />
    </>
  );
}

function Announcer() {
  return <div className="unseen" role="status" aria-live="polite">{useAnnouncement()}</div>;
}

function BalanceLine() {
  const { data } = useBalance();
  return (
    <NavLink to="/ledger" className="balance" aria-live="polite">
      <span className="balance-value" data-testid="available">{count(data?.available ?? null)}</span>
      <span> available</span>
      {data !== undefined && data.held > 0 && <span className="held">, {count(data.held)} held</span>}
    </NavLink>
  );
}

function ThemeSwitch() {
  const choice = useThemeChoice();
  return (
    <label className="theme">
      <span className="unseen">Colours</span>
      <select value={choice} onChange={(event) => chooseTheme(event.target.value as Choice)}>
        <option value="auto">As the system</option>
        <option value="light">Light</option>
        <option value="dark">Dark</option>
      </select>
    </label>
  );
}

function Account() {
  const { user } = useSession();
  const client = useQueryClient();
  const leave = async () => {
    try {
      await api.logout();
    } finally {
      client.clear();
      location.assign("/");
    }
  };
  return (
    <div className="account">
      <span className="account-name">{user.name} <span className="role">{user.role}</span></span>
      <button type="button" className="quiet" onClick={() => void leave()}>Log out</button>
    </div>
  );
}

const TITLES = { no_numbers: "No numbers are left", draining: "The launcher is about to restart", degraded: "The launcher is not well" };

function Banners() {
  const { config, push } = useSession();
  const connection = useConnection();
  const outdated = useSyncExternalStore(push.watch, push.outdated);
  const { data: status, error } = useStatus();
  const pushed = useSyncExternalStore(push.watch, push.banner);
  const banner = (connection === "up" && pushed !== undefined ? pushed : status?.banner) ?? null;
  const seconds = milliseconds(config, "status_poll_interval", 3000) / 1000;
  return (
    <div className="banners" aria-live="polite">
      {connection === "down" && error !== null && (
        <p className="banner bad"><strong>Connection lost.</strong> What you see may be old. Trying again by itself.</p>
      )}
      {connection === "down" && error === null && (
        <p className="banner warn">
          <strong>Live updates are interrupted.</strong> Asking the server every {seconds} s until the connection is back.
        </p>
      )}
      {banner !== null && (
        <p className="banner warn">
          <strong>{TITLES[banner.kind]}.</strong> {banner.message} <span className="since">Since {moment(banner.since)}.</span>
        </p>
      )}
      {outdated && (
        <p className="banner">
          <strong>The launcher was updated.</strong>{" "}
          <button type="button" className="quiet" onClick={() => location.reload()}>Load the new page</button>
        </p>
      )}
    </div>
  );
}
