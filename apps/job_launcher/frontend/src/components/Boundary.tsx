// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { Component, type ReactNode } from "react";
import { Failure } from "./basics";

/** Keeps a fault of the page itself from leaving it blank. */
export class Boundary extends Component<{ children: ReactNode }, { error: Error | null }> {
  override state: { error: Error | null } = { error: null };

  static getDerivedStateFromError(error: unknown) {
    return { error: error instanceof Error ? error : new Error(String(error)) };
  }

  override render() {
    if (this.state.error === null) return this.props.children;
    return (
      <main className="login">
        <Failure what="This page has a fault. Your runs go on." error={this.state.error} retry={() => location.reload()} />
      </main>
    );
  }
}
