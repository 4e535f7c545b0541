// Copyright: Even Keel contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { App } from "./App";
import { Boundary } from "./components/Boundary";
import { ApiError } from "./lib/api";
import "./lib/theme";
import "./styles/base.css";
import "./styles/parts.css";
import "./styles/log.css";

const client = new QueryClient({
  defaultOptions: {
    queries: {
      // The push keeps everything fresh: nothing is asked for again because a page or a window is shown again.
      staleTime: Number.POSITIVE_INFINITY,
      refetchOnWindowFocus: false,
      refetchOnReconnect: false,
      retry: (failures, error) => failures < 2 && !(error instanceof ApiError && error.status >= 400 && error.status < 500),
    },
  },
});

const root = document.getElementById("root");
if (root === null) throw new Error("the page lacks its root");
createRoot(root).render(
  <StrictMode>
    <QueryClientProvider client={client}><Boundary><App /></Boundary></QueryClientProvider>
  </StrictMode>,
);
